"""One client's connection: parses its bytes into requests, one after the other, and writes the answers.

A request is run once its body is complete, and the next one is parsed once that one is answered: answers are in order, and
a client that sends without reading is no longer read from. A request costs only what it needs: no task, no timer, and no copy
of a large body, which is read into the memory that the model reads.
"""

import asyncio
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from podpair.inference.core.errors import InferenceError, TooLargeError
from podpair.inference.http1.compression import SMALLEST_BYTES, compress
from podpair.inference.http1.request_body import ChunkedBody, aligned_buffer
from podpair.inference.http1.request_head import CHUNKED, MAX_HEAD_BYTES, HeadError, PartialHead, RequestHead
from podpair.inference.http1.requests import ConnectionOwner, Request, Response, Segment
from podpair.inference.http1.state import State

# Seconds until a head must be complete, a body or an answer must make progress, a refused client is cut off, an idle one is.
HEAD_SECONDS, STALL_SECONDS, LINGER_SECONDS, KEEP_SECONDS = 30.0, 60.0, 3.0, 3600.0
# Bytes of later requests that are read while one is answered.
_AHEAD = 65_536
# Smaller answers are joined and written at once.
_JOINED = 32_768
LENGTH = "inference-header-content-length"

_STATUS = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD, _BODY, _ANSWER, _LINGER, _CLOSED = State  # looked up once: this is the hot path


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection."""

    def __init__(self, server: ConnectionOwner) -> None:
        self._server = server
        self._scratch = server.scratch
        self._transport: Any = None
        # Bytes of an incomplete head, or of the requests after the current one, from `_offset` on: many small requests in one
        # piece aren't copied again and again.
        self._pending, self._offset = b"", 0
        # A head of which only a part has been received.
        self._partial: PartialHead | None = None
        # The request whose body is being read, and what has been read of it.
        self._head: RequestHead | None = None
        self._body: memoryview | None = None
        self._filled = 0
        self._chunks: ChunkedBody | None = None
        # Bytes of the current body that are counted in the memory budget.
        self._counted_bytes = 0
        # The request that is being answered.
        self._request: Request | None = None
        self._state = _HEAD
        # Received bytes are being processed further up the stack.
        self._processing = False
        # The current answer is the last one.
        self._last = False
        self._read_paused = False
        # Set while the client is too slow to read what is written.
        self._writable: asyncio.Future[None] | None = None
        # Whether anything was received or sent since the last tick; the loop's time since when nothing was, and since when
        # the head of a request is incomplete; 0: neither is so.
        self._active = True
        self._idle_since = self._head_since = 0.0

    @property
    def file(self) -> int:
        """The file descriptor of the socket, or -1."""
        opened = None if self._transport is None else self._transport.get_extra_info("socket")
        return -1 if opened is None else int(opened.fileno())

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with a client that has connected."""
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after a client that has gone: the answer to its request isn't needed any more."""
        self._server.on_closed(self)
        self._state = _CLOSED
        self._release()
        request, self._request = self._request, None
        self.resume_writing()
        if request is not None:
            on_disconnect, request.on_disconnect = request.on_disconnect, None
            if on_disconnect is not None:
                on_disconnect()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes, which is the body if one is being read."""
        return self._scratch if self._body is None else self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Process bytes that were received."""
        self._active = True
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                self._process(b"")
            return
        if self._state >= _LINGER:
            return
        data = bytes(self._scratch[:nbytes])
        if self._state is _ANSWER:
            self._pending, self._offset = self._pending[self._offset :] + data, 0
            if len(self._pending) > _AHEAD:
                self._read_paused = True
                self._transport.pause_reading()
            return
        self._process(self._pending + data if self._pending else data)

    def pause_writing(self) -> None:
        """Note that the client doesn't keep up."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Note that the client keeps up again."""
        room, self._writable = self._writable, None
        if room is not None and not room.done():
            room.set_result(None)

    # Requests.

    def _process(self, data: bytes, at: int = 0) -> None:
        """Run the complete requests in `data` until one isn't answered at once; keep the rest."""
        self._pending, self._offset = b"", 0
        self._processing = True
        try:
            at = self._process_next(data, at)
            while at < len(data) and self._state is _HEAD:
                at = self._process_next(data, at)
            if at < len(data) and self._state is _ANSWER:
                self._pending, self._offset = data, at
        except HeadError as error:
            self._refuse(self._server.errors.for_bad_request(error.status, str(error)), self._is_head_request(data, at))
        except InferenceError as error:
            self._refuse(self._server.errors.for_error(error, None), self._is_head_request(data, at))
        finally:
            self._processing = False
        self._resume_reading()

    def _process_next(self, data: bytes, at: int) -> int:
        """Run the first request at `at` if it is complete. Return where the next begins. Raises HeadError, InferenceError."""
        if self._head is not None:
            return self._read_body(self._head, data, at)
        # Empty lines before a request are ignored (RFC 9112, 2.2).
        while data.startswith(b"\r\n", at):
            at += 2
        end = data.find(b"\r\n\r\n", at) + 4
        if not at + 4 <= end <= at + MAX_HEAD_BYTES:
            self._expect_head(data[at:])
            return len(data)
        self._partial, self._head_since = None, 0.0
        head = self._server.head_parser.parse(data[at:end])
        length = head.length
        if 0 <= length <= len(data) - end:
            self._run(head, data[end : end + length])
            return end + length
        return self._expect_body(head, data, end)

    def _expect_head(self, data: bytes) -> None:
        """Check an incomplete head of which `data` has been received."""
        if not data:
            return
        self._partial = self._partial or PartialHead()
        self._partial.feed(data[:MAX_HEAD_BYTES])
        if len(data) > MAX_HEAD_BYTES:
            if b"\r\n" not in data[:MAX_HEAD_BYTES]:
                raise HeadError(414, f"the request's first line has more than {MAX_HEAD_BYTES} bytes")
            raise HeadError(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes")
        self._pending = data
        self._head_since = self._head_since or self._server.now()

    def _expect_body(self, head: RequestHead, data: bytes, at: int) -> int:
        """Start to read a body that begins at `at` and is incomplete. Return where the next request begins."""
        server = self._server
        if head.length > server.max_body_bytes:
            raise TooLargeError(f"{head.length} bytes, the limit is {server.max_body_bytes} (server.max_body_bytes)")
        server.budget.check()
        self._head, self._state = head, _BODY
        received = len(data) - at
        if head.expects_continue and not received:
            self._transport.write(_CONTINUE)
        if head.length == CHUNKED:
            self._chunks = ChunkedBody()
            return self._read_body(head, data, at)
        self._count_bytes(head.length)
        self._body = aligned_buffer(head.length, head.headers.get(LENGTH, ""))
        self._filled = received
        self._body[:received] = data[at:]
        return len(data)

    def _read_body(self, head: RequestHead, data: bytes, at: int) -> int:
        """Read more of the body from `data` at `at`. Return where the next request begins."""
        body: Segment = b""
        end = len(data)
        if self._chunks is not None:
            body = self._chunks.content
            used = self._chunks.feed(data[at:])
            self._count_bytes(len(body))
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

    def _is_head_request(self, data: bytes, at: int) -> bool:
        """Return whether the refused request is a HEAD, whose answer has no content."""
        if self._head is not None:
            return self._head.method == "HEAD"
        return data[at:].lstrip(b"\r\n").startswith(b"HEAD ")

    def _run(self, head: RequestHead, body: Segment) -> None:
        request = self._request = Request(self, head, body)
        self._state = _ANSWER
        self._server.run(request)

    def _count_bytes(self, size: int) -> None:
        self._server.budget.bytes += size - self._counted_bytes
        self._counted_bytes = size

    def _release(self) -> None:
        self._server.budget.bytes -= self._counted_bytes
        self._counted_bytes = 0

    # Answers.

    def answer(self, request: Request, response: Response) -> None:
        """Write an answer, compressed if the client wants it; drop it if the client has gone."""
        coding = request.head.content_coding
        if coding is not None and sum([len(part) for part in response.body]) >= SMALLEST_BYTES:
            compress(response, coding, partial(self._write, request))
        else:
            self._write(request, response)

    def _write(self, request: Request, response: Response) -> None:
        if request is not self._request:
            return
        keep = self._connection_header(request.head)
        length = sum([len(part) for part in response.body])
        ending = b"Content-Length: %d\r\n%b%b\r\n" % (length, self._server.date, keep)
        start = _STATUS[response.status] + response.headers + ending
        if request.head.method == "HEAD":
            self._transport.write(start)
        elif length < _JOINED:
            self._transport.write(b"".join((start, *response.body)))
        else:
            self._transport.writelines([start, *response.body])
        self._on_answered()

    def begin(self, request: Request, headers: bytes) -> None:
        """Write the head of a streamed answer."""
        if request is not self._request:
            raise ConnectionResetError
        if request.head.is_http10:
            self._last = True
            framing = b""
        else:
            framing = b"Transfer-Encoding: chunked\r\n"
        keep = self._connection_header(request.head)
        self._transport.write(b"".join((_STATUS[200], headers, framing, self._server.date, keep, b"\r\n")))

    def write_chunk(self, request: Request, data: bytes) -> None:
        """Write a chunk. Raises ConnectionResetError if the client has gone."""
        if request is not self._request:
            raise ConnectionResetError
        if data and request.head.method != "HEAD":
            self._active = True
            self._transport.write(data if request.head.is_http10 else b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self, request: Request) -> None:
        """Complete a streamed answer."""
        if request is self._request:
            if not request.head.is_http10 and request.head.method != "HEAD":
                self._transport.write(b"0\r\n\r\n")
            self._on_answered()

    async def drained(self) -> None:
        """Wait until the client has read most of what was written."""
        if self._writable is not None:
            await self._writable

    def abort(self) -> None:
        """Close the connection in the middle of an answer."""
        self._transport.abort()

    def _connection_header(self, head: RequestHead) -> bytes:
        self._last = self._last or not head.keep_alive or self._server.closing
        if self._last:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if head.is_http10 else b""

    def _on_answered(self) -> None:
        self._active = True
        request, self._request = self._request, None
        if request is not None:
            # The callback refers to the request: without this its body would stay in memory until cycles are collected.
            request.on_disconnect = None
        if self._counted_bytes:
            self._release()
        if self._last:
            self._end()
            return
        self._state = _HEAD
        if self._processing:
            return
        if self._pending:
            self._process(self._pending, self._offset)
        else:
            self._resume_reading()

    def _resume_reading(self) -> None:
        """Read from the client again if little is pending."""
        if self._read_paused and len(self._pending) - self._offset <= _AHEAD:
            self._read_paused = False
            self._transport.resume_reading()

    def _refuse(self, response: Response, bodiless: bool = False) -> None:
        """Answer a request that can't be parsed, and end."""
        self._head = self._body = self._chunks = self._partial = None
        self._release()
        body = response.body[0]
        end = b"Content-Length: %d\r\nConnection: close\r\n%b\r\n" % (len(body), self._server.date)
        self._transport.write(b"".join((_STATUS[response.status], response.headers, end, b"" if bodiless else body)))
        self._end()

    def _end(self) -> None:
        """Half-close, and read on for a while: a reset would lose the last answer (RFC 9112, 9.6)."""
        self._state, self._idle_since = _LINGER, self._server.now()
        self._pending, self._offset = b"", 0
        self._resume_reading()
        with suppress(OSError, RuntimeError, NotImplementedError):
            self._transport.write_eof()

    # Time.

    def close(self) -> None:
        """Close after the current answer, or at once if there is none."""
        if self._state is _ANSWER:
            self._last = True
        else:
            self._transport.close()

    def tick(self, now: float) -> None:
        """Close a connection that makes no progress (called at intervals)."""
        lingers = self._state >= _LINGER
        if self._active and not lingers:
            self._idle_since = 0.0
        self._active = False
        self._idle_since = self._idle_since or now
        waited = now - self._idle_since
        if lingers or self._writable is not None:
            if waited > STALL_SECONDS:
                self._transport.abort()
            elif lingers and waited > LINGER_SECONDS and self._writable is None:
                self._transport.close()
        elif self._state is _ANSWER:
            self._idle_since = 0.0
        elif self._state is _BODY:
            if waited > STALL_SECONDS:
                self._time_out(f"no more of the body has come for {STALL_SECONDS:.0f} s")
        elif self._head_since:
            if now - self._head_since > HEAD_SECONDS:
                self._time_out(f"the head was not complete after {HEAD_SECONDS:.0f} s")
        elif waited > KEEP_SECONDS:
            self._transport.close()

    def _time_out(self, message: str) -> None:
        self._refuse(self._server.errors.for_bad_request(408, message), self._is_head_request(self._pending, 0))
