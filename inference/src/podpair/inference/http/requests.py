"""A request as a handler sees it, and the three ways to answer: a response, a response of its own making later, a stream."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from podpair.inference.http.connection import Connection
    from podpair.inference.http.heads import Head

Part = bytes | bytearray | memoryview


class Response:
    """A whole answer.

    body: its parts one behind the other, none of which is copied where it is large. headers: their lines as they are sent.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: Sequence[Part], headers: bytes) -> None:
        self.status = status
        self.body = body
        self.headers = headers


def lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A document in JSON; bytes are JSON already."""
    content = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return Response(status, (content,), lines({"Content-Type": "application/json", **(headers or {})}))


class Request:
    """One request, its body read. It is answered once; what is answered after the client has gone is dropped."""

    __slots__ = ("_connection", "body", "gone", "head", "id", "started")

    def __init__(self, connection: "Connection", head: "Head", body: Part) -> None:
        self._connection = connection
        self.head = head
        self.body = body
        # Called when the client goes away before its answer.
        self.gone: Callable[[], object] | None = None
        # The id that the client gave it, once its body has been understood.
        self.id: str | None = None
        # Whether an answer has begun.
        self.started = False

    @property
    def values(self) -> Mapping[str, str]:
        """What stands in the path where its route has names."""
        return self.head.values

    def header(self, name: str) -> str | None:
        """A header's value; its name in lower case."""
        return self.head.headers.get(name)

    def answer(self, response: Response) -> None:
        """Answer it."""
        self.started = True
        self._connection.answer(self, response)

    def begin(self, headers: bytes) -> "Stream":
        """Answer it with 200, in parts."""
        self.started = True
        self._connection.begin(self, headers)
        return Stream(self._connection, self)

    def cut(self) -> None:
        """End the connection: what was begun can't be ended as it should."""
        self._connection.abort()


class Stream:
    """The body of an answer, part by part."""

    def __init__(self, connection: "Connection", request: Request) -> None:
        self._connection = connection
        self._request = request

    async def write(self, data: bytes) -> None:
        """Send a part; waits while the client is slow to take what was sent before."""
        self._connection.write_part(self._request, data)
        await self._connection.drained()

    def end(self) -> None:
        """No more parts."""
        self._connection.end_parts(self._request)


Handler = Callable[[Request], Any]
