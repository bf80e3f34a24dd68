"""A request as a handler sees it, and the ways to answer it: a response returned or sent later, or a stream of chunks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from podpair.inference.core.errors import InferenceError
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.http1.request_head import HeadParser, RequestHead

# A piece of a body.
Segment = bytes | bytearray | memoryview

_NO_PARAMS: Mapping[str, str] = {}


class Response:
    """A whole answer.

    body: its segments in order; large ones aren't copied. headers: their lines as they are sent.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: Sequence[Segment], headers: bytes) -> None:
        self.status = status
        self.body = body
        self.headers = headers


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Encode headers as the lines that are sent."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a document as JSON; bytes are JSON already."""
    content = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return Response(status, (content,), header_lines({"Content-Type": "application/json", **(headers or {})}))


class ResponseWriter(Protocol):
    """What a request needs of its connection. Writing does nothing, or raises, once the client has gone."""

    def answer(self, request: "Request", response: Response) -> None:
        """Write a whole answer."""
        ...

    def begin(self, request: "Request", headers: bytes) -> None:
        """Write the head of a streamed answer. Raises ConnectionResetError if the client has gone."""
        ...

    def write_chunk(self, request: "Request", data: bytes) -> None:
        """Write a chunk. Raises ConnectionResetError if the client has gone."""
        ...

    def end_stream(self, request: "Request") -> None:
        """Complete a streamed answer."""
        ...

    async def drained(self) -> None:
        """Wait until the client has read most of what was written."""
        ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


class ErrorResponses(Protocol):
    """What makes the responses of errors, and counts them."""

    def for_exception(self, error: Exception, request: "Request") -> Response:
        """Return the response to whatever a handler raised."""
        ...

    def for_error(self, error: InferenceError, request: "Request | None") -> Response:
        """Return the response to an error that is meant for the client."""
        ...

    def for_bad_request(self, status: int, message: str) -> Response:
        """Return the response to bytes that are no valid HTTP request."""
        ...


class ConnectionOwner(Protocol):
    """What a connection needs of its server."""

    scratch: memoryview
    connections: set[Any]
    head_parser: HeadParser
    errors: ErrorResponses
    budget: MemoryBudget
    max_body_bytes: int
    # The line of the Date header.
    date: bytes
    closing: bool
    now: Callable[[], float]

    def run(self, request: "Request") -> None:
        """Have a request answered."""
        ...

    def on_closed(self, connection: Any) -> None:
        """Note that a connection has ended."""
        ...


class Request:
    """One request, its body read. It is answered once; an answer after the client has gone is dropped."""

    __slots__ = ("_writer", "body", "head", "id", "on_disconnect", "path_params", "started")

    def __init__(self, writer: ResponseWriter, head: RequestHead, body: Segment) -> None:
        self._writer = writer
        self.head = head
        self.body = body
        # The values of the route's {names} in the path.
        self.path_params = _NO_PARAMS
        # Called if the client goes away before its answer.
        self.on_disconnect: Callable[[], object] | None = None
        # The id that the client gave it, once its body has been decoded.
        self.id: str | None = None
        # Whether an answer has begun.
        self.started = False

    def header(self, name: str) -> str | None:
        """Return a header's value; `name` is in lower case."""
        return self.head.headers.get(name)

    def answer(self, response: Response) -> None:
        """Answer the request."""
        self.started = True
        self._writer.answer(self, response)

    def start_stream(self, headers: bytes) -> "Stream":
        """Answer the request with 200, in chunks."""
        self.started = True
        self._writer.begin(self, headers)
        return Stream(self._writer, self)

    def abort(self) -> None:
        """Close the connection: an answer that has begun can't be completed."""
        self._writer.abort()


class Stream:
    """The body of an answer in chunks."""

    def __init__(self, writer: ResponseWriter, request: Request) -> None:
        self._writer = writer
        self._request = request

    async def write(self, data: bytes) -> None:
        """Send a chunk; wait while the client is slow to read what was sent before."""
        self._writer.write_chunk(self._request, data)
        await self._writer.drained()

    def end(self) -> None:
        """Complete the answer."""
        self._writer.end_stream(self._request)


Handler = Callable[[Request], Any]
