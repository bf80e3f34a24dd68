"""One client's connection: its bytes become requests, one after the other, and its answers bytes.

A request is run once its body is complete, and the next one is looked at once that one is answered: answers are in order, and
a client that sends without reading is no longer read from. Nothing is done here for each request that isn't needed for it:
no task, no timer, and no copy of a large body, which is read into the memory in which the model finds it.
"""

import asyncio
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np

from podpair.inference.core.errors import InferenceError, TooLargeError
from podpair.inference.http.chunked_body import ChunkedBody
from podpair.inference.http.compressing import SMALLEST_BYTES, pack
from podpair.inference.http.heads import CHUNKED, MAX_HEAD_BYTES, Head, HeadError, PartialHead, number_of_bytes
from podpair.inference.http.requests import Part, Request, Response

if TYPE_CHECKING:
    from podpair.inference.http.server import Server

# Seconds for a head to be complete, for a body or an answer to get on, for a refused client to see why, between two requests.
HEAD_SECONDS, STALL_SECONDS, LINGER_SECONDS, KEEP_SECONDS = 30.0, 60.0, 3.0, 3600.0
# Bytes of later requests that are taken while one is answered.
_AHEAD = 65_536
# What is smaller is joined and written at once.
_JOINED = 32_768
# Tensors begin at a multiple of this where that can be chosen: what vector instructions like.
_ALIGNED = 64
LENGTH = "inference-header-content-length"

_STATUS = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._scratch = server.scratch
        self._transport: Any = None
        # What has come of a head, or of the requests behind the present one, from `_at` on: many small requests in one piece
        # are not to be copied again and again.
        self._pending, self._at = b"", 0
        # The head of which only a part has come.
        self._partial: PartialHead | None = None
        # The request whose body is being read, and what there is of it.
        self._head: Head | None = None
        self._body: memoryview | None = None
        self._filled = 0
        self._chunks: ChunkedBody | None = None
        # Bytes of memory that the present body is counted with.
        self._held = 0
        # The request that is being answered.
        self._request: Request | None = None
        # Requests are being taken out of what has come.
        self._taking = False
        # The present answer is the last; nothing is taken any more.
        self._last = self._over = False
        self._read_paused = False
        # While the client is too slow to take what is written.
        self._room: asyncio.Future[None] | None = None
        # Whether anything has come or gone since the last tick; the loop's time since when nothing has, and since when
        # the head of a request is incomplete; 0: it isn't so.
        self._moved = True
        self._since = self._began = 0.0

    @property
    def file(self) -> int:
        """The file descriptor of its socket; -1: it has none."""
        opened = None if self._transport is None else self._transport.get_extra_info("socket")
        return -1 if opened is None else int(opened.fileno())

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client has connected."""
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone: what it asked for isn't needed any more."""
        self._server.left(self)
        self._over = True
        self._release()
        request, self._request = self._request, None
        self.resume_writing()
        if request is not None:
            gone, request.gone = request.gone, None
            if gone is not None:
                gone()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: straight into a body that is being read."""
        return self._scratch if self._body is None else self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._moved = True
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                self._take_from(b"")
            return
        if self._over:
            return
        data = bytes(self._scratch[:nbytes])
        if self._request is not None:
            self._pending, self._at = self._pending[self._at :] + data, 0
            if len(self._pending) > _AHEAD:
                self._read_paused = True
                self._transport.pause_reading()
            return
        self._take_from(self._pending + data if self._pending else data)

    def pause_writing(self) -> None:
        """The client doesn't keep up."""
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """It does again."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # Requests.

    def _take_from(self, data: bytes, at: int = 0) -> None:
        """Run the requests in `data` that are complete, until one isn't answered at once; keep the rest."""
        self._pending, self._at = b"", 0
        self._taking = True
        try:
            at = self._take(data, at)
            while at < len(data) and self._request is None and not self._over:
                at = self._take(data, at)
            if at < len(data) and not self._over:
                self._pending, self._at = data, at
        except HeadError as error:
            self._refuse(self._server.refused(error.status, str(error)), self._asks_for_head(data, at))
        except InferenceError as error:
            self._refuse(self._server.failed(error, None), self._asks_for_head(data, at))
        finally:
            self._taking = False
        self._read_on()

    def _take(self, data: bytes, at: int) -> int:
        """Run the first request at `at` if it is complete; where the next one begins. Raises HeadError or InferenceError."""
        if self._head is not None:
            return self._continue(self._head, data, at)
        # Empty lines before a request are nothing (RFC 9112, 2.2).
        while data.startswith(b"\r\n", at):
            at += 2
        end = data.find(b"\r\n\r\n", at) + 4
        if not at + 4 <= end <= at + MAX_HEAD_BYTES:
            self._expect_head(data[at:])
            return len(data)
        self._partial, self._began = None, 0.0
        head = self._server.heads.read(data[at:end])
        length = head.length
        if 0 <= length <= len(data) - end:
            self._run(head, data[end : end + length])
            return end + length
        return self._expect_body(head, data, end)

    def _expect_head(self, data: bytes) -> None:
        """Read a head of which only `data` has come."""
        if not data:
            return
        self._partial = self._partial or PartialHead()
        self._partial.feed(data[:MAX_HEAD_BYTES])
        if len(data) > MAX_HEAD_BYTES:
            if b"\r\n" not in data[:MAX_HEAD_BYTES]:
                raise HeadError(414, f"the request's first line has more than {MAX_HEAD_BYTES} bytes")
            raise HeadError(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes")
        self._pending = data
        self._began = self._began or self._server.now()

    def _expect_body(self, head: Head, data: bytes, at: int) -> int:
        """Read a body of which only what is behind `at` has come; where the next request begins."""
        server = self._server
        if head.length > server.max_body_bytes:
            raise TooLargeError(f"{head.length} bytes, the limit is {server.max_body_bytes} (server.max_body_bytes)")
        server.held.check()
        self._head = head
        came = len(data) - at
        if head.expects and not came:
            self._transport.write(_CONTINUE)
        if head.length == CHUNKED:
            self._chunks = ChunkedBody()
            return self._continue(head, data, at)
        self._hold(head.length)
        self._body = _aligned(head.length, head.headers.get(LENGTH, ""))
        self._filled = came
        self._body[:came] = data[at:]
        return len(data)

    def _continue(self, head: Head, data: bytes, at: int) -> int:
        """More of the body is in `data` from `at` on; where what is behind it begins."""
        body: Part = b""
        end = len(data)
        if self._chunks is not None:
            body = self._chunks.content
            used = self._chunks.feed(data[at:])
            self._hold(len(body))
            if self._chunks.size > self._server.max_body_bytes:
                raise TooLargeError(f"more than {self._server.max_body_bytes} bytes (server.max_body_bytes)")
            if used is None:
                return end
            end = at + used
        elif self._body is not None:
            body = self._body
        self._head = self._body = self._chunks = None
        self._run(head, body)
        return end

    def _asks_for_head(self, data: bytes, at: int) -> bool:
        """Whether the request that is refused is a HEAD, whose answer has no content."""
        if self._head is not None:
            return self._head.method == "HEAD"
        return data[at:].lstrip(b"\r\n").startswith(b"HEAD ")

    def _run(self, head: Head, body: Part) -> None:
        request = self._request = Request(self, head, body)
        self._server.run(request)

    def _hold(self, size: int) -> None:
        self._server.held.bytes += size - self._held
        self._held = size

    def _release(self) -> None:
        self._server.held.bytes -= self._held
        self._held = 0

    # Answers.

    def answer(self, request: Request, response: Response) -> None:
        """Write an answer, packed where the client wants it; nothing where it has gone."""
        coding = request.head.coding
        if coding is not None and sum([len(part) for part in response.body]) >= SMALLEST_BYTES:
            pack(response, coding, partial(self._write, request))
        else:
            self._write(request, response)

    def _write(self, request: Request, response: Response) -> None:
        if request is not self._request:
            return
        keep = self._keeps(request.head)
        length = sum([len(part) for part in response.body])
        ending = b"Content-Length: %d\r\n%b%b\r\n" % (length, self._server.date, keep)
        start = _STATUS[response.status] + response.headers + ending
        if request.head.method == "HEAD":
            self._transport.write(start)
        elif length < _JOINED:
            self._transport.write(b"".join((start, *response.body)))
        else:
            self._transport.writelines([start, *response.body])
        self._answered()

    def begin(self, request: Request, headers: bytes) -> None:
        """Write the head of an answer in parts."""
        if request is not self._request:
            raise ConnectionResetError
        if request.head.old:
            self._last = True
            framing = b""
        else:
            framing = b"Transfer-Encoding: chunked\r\n"
        keep = self._keeps(request.head)
        self._transport.write(b"".join((_STATUS[200], headers, framing, self._server.date, keep, b"\r\n")))

    def write_part(self, request: Request, data: bytes) -> None:
        """Write a part. Raises ConnectionResetError where the client has gone."""
        if request is not self._request:
            raise ConnectionResetError
        if data and request.head.method != "HEAD":
            self._moved = True
            self._transport.write(data if request.head.old else b"%x\r\n%b\r\n" % (len(data), data))

    def end_parts(self, request: Request) -> None:
        """The answer in parts is complete."""
        if request is self._request:
            if not request.head.old and request.head.method != "HEAD":
                self._transport.write(b"0\r\n\r\n")
            self._answered()

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""
        if self._room is not None:
            await self._room

    def abort(self) -> None:
        """End the connection in the middle of an answer."""
        self._transport.abort()

    def _keeps(self, head: Head) -> bytes:
        self._last = self._last or not head.keep_alive or self._server.closing
        if self._last:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if head.old else b""

    def _answered(self) -> None:
        self._moved = True
        request, self._request = self._request, None
        if request is not None:
            # What it would call refers to it. Without this its body stays in memory until the rare collection of cycles.
            request.gone = None
        if self._held:
            self._release()
        if self._last:
            self._end()
            return
        if self._taking:
            return
        if self._pending:
            self._take_from(self._pending, self._at)
        else:
            self._read_on()

    def _read_on(self) -> None:
        """Read from the client again, where what it has sent ahead is little."""
        if self._read_paused and len(self._pending) - self._at <= _AHEAD:
            self._read_paused = False
            self._transport.resume_reading()

    def _refuse(self, response: Response, bodiless: bool = False) -> None:
        """Answer what can't be understood, and end."""
        self._head = self._body = self._chunks = self._partial = None
        self._release()
        body = response.body[0]
        end = b"Content-Length: %d\r\nConnection: close\r\n%b\r\n" % (len(body), self._server.date)
        self._transport.write(b"".join((_STATUS[response.status], response.headers, end, b"" if bodiless else body)))
        self._end()

    def _end(self) -> None:
        """Say that nothing follows, and read on for a while: a reset would lose the last answer (RFC 9112, 9.6)."""
        self._over, self._since = True, self._server.now()
        self._pending, self._at = b"", 0
        self._read_on()
        with suppress(OSError, RuntimeError, NotImplementedError):
            self._transport.write_eof()

    # Time.

    def close(self) -> None:
        """End after the present answer, or at once where there is none."""
        if self._request is None:
            self._transport.close()
        else:
            self._last = True

    def tick(self, now: float) -> None:
        """Now and then: end a connection that doesn't get on."""
        if self._moved and not self._over:
            self._since = 0.0
        self._moved = False
        self._since = self._since or now
        waited = now - self._since
        if self._over or self._room is not None:
            if waited > STALL_SECONDS:
                self._transport.abort()
            elif self._over and waited > LINGER_SECONDS and self._room is None:
                self._transport.close()
        elif self._request is not None:
            self._since = 0.0
        elif self._head is not None:
            if waited > STALL_SECONDS:
                self._give_up(f"no more of the body has come for {STALL_SECONDS:.0f} s")
        elif self._began:
            if now - self._began > HEAD_SECONDS:
                self._give_up(f"the head was not complete after {HEAD_SECONDS:.0f} s")
        elif waited > KEEP_SECONDS:
            self._transport.close()

    def _give_up(self, message: str) -> None:
        self._refuse(self._server.refused(408, message), self._asks_for_head(self._pending, 0))


def _aligned(length: int, header_length: str) -> memoryview:
    """Memory for a body whose tensors, which begin behind the JSON, are to be aligned; not written to before it is used."""
    before = number_of_bytes(header_length) or 0
    memory = np.empty(length + _ALIGNED, np.uint8)
    start = -(memory.__array_interface__["data"][0] + min(before, length)) % _ALIGNED
    return memory[start : start + length].data
