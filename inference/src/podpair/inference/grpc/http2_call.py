"""A call of `http2_server`: one stream, from its messages to its status.

Invariant: a call ends once; what it still has to send then goes as the client's windows open, and nothing refers to it after.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from podpair.inference.grpc import wire_format
from podpair.inference.grpc.call import CallEnded, CallLifecycle, DirectMethod, Headers
from podpair.inference.grpc.methods import ONE_MESSAGE
from podpair.inference.grpc.status import Status
from podpair.inference.grpc.wire_format import PREFIX_BYTES, Head
from podpair.inference.http2 import frames
from podpair.inference.http2.connection import Connection
from podpair.inference.http2.frames import DEFAULT_WINDOW, ErrorCode

if TYPE_CHECKING:
    from podpair.inference.grpc.http2_server import Http2Server

_OK_TRAILERS = wire_format.trailers(Status.OK)
_OK_BEFORE = len(_OK_TRAILERS).to_bytes(3, "big") + bytes((frames.HEADERS, frames.END_HEADERS | frames.END_STREAM))
_PLAIN_HEAD = wire_format.answer_head("identity")
_HEAD_BEFORE = len(_PLAIN_HEAD).to_bytes(3, "big") + bytes((frames.HEADERS, frames.END_HEADERS))
_DATA_KIND = bytes((frames.DATA, 0))
_ENDING = frames.END_HEADERS | frames.END_STREAM


class Http2Call(CallLifecycle):
    """A `Call`, the context of its method, and a connection's `Stream`."""

    __slots__ = (
        "_began", "_begin", "_buffer", "_compression", "_connection", "_deadline", "_head", "_messages", "_number", "_pending",
        "_reader", "_server", "_timer", "_trailers", "_writer", "ended", "receive_window", "send_window", "serialize",
    )  # fmt: skip

    def __init__(self, server: "Http2Server", connection: Connection, number: int, head: Head, ended: bool) -> None:
        super().__init__()
        self._server, self._connection, self._number, self._head = server, connection, number, head
        self.send_window, self.receive_window = connection.initial_window, DEFAULT_WINDOW
        # Whether the client has sent everything.
        self.ended = ended
        self._began = False
        self._compression = server.compression if server.compression in head.accepted else "identity"
        self._begin: DirectMethod | None = None
        self._buffer: bytearray | None = None
        # What a method that reads has not read yet, and who waits for more.
        self._messages: deque[bytes] | None = None
        self._reader: asyncio.Future[None] | None = None
        # Data that waits for a window, the trailers after it, and who waits for room.
        self._pending: deque[bytes] | None = None
        self._trailers: bytes | None = None
        self._writer: asyncio.Future[None] | None = None
        self.serialize: Callable[[Any], bytes] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if head.timeout is not None:
            self._deadline = server.now() + head.timeout
            self._timer = server.call_at(self._deadline, self._expire)

    # The method's.

    def time_remaining(self) -> float | None:
        """See `Call`."""
        return None if self._deadline is None else max(0.0, self._deadline - self._server.now())

    def invocation_metadata(self) -> Headers:
        """See `Call`."""
        return self._head.metadata

    def answer(self, message: bytes) -> None:
        """See `Call`."""
        if self.done:
            return
        size = len(message) + PREFIX_BYTES
        connection = self._connection
        if (
            self._began
            or self._compression != "identity"
            or size > min(connection.room(self), connection.largest_frame)
        ):
            self._send(message)
            self._end(_OK_TRAILERS)
            return
        connection.send_window -= size
        number = self._number.to_bytes(4, "big")
        connection.write(
            b"".join(
                (
                    _HEAD_BEFORE, number, _PLAIN_HEAD,
                    size.to_bytes(3, "big"), _DATA_KIND, number, b"\0", len(message).to_bytes(4, "big"), message,
                    _OK_BEFORE, number, _OK_TRAILERS,
                )
            )
        )  # fmt: skip
        self._leave()
        self.on_cancelled = None
        self._finish()

    def finish(self) -> None:
        """Send the status OK, after what was written."""
        if not self.done:
            self._end(_OK_TRAILERS)

    def fail(self, code: Status, details: str = "", trailing: Headers = ()) -> None:
        """See `Call`."""
        if not self.done:
            self._end(wire_format.trailers(code, details, trailing))

    async def abort(self, code: Status, details: str = "", trailing_metadata: Headers = ()) -> None:
        """Fail the call as `fail` does. Raises CallEnded."""
        self.fail(code, details, trailing_metadata)
        raise CallEnded

    async def write(self, message: Any) -> None:
        """Send one of several answers, and wait until the client has room for more. Raises CallEnded if it has gone."""
        if self.done:
            raise CallEnded
        self._send(message if self.serialize is None else self.serialize(message))
        while self._pending:
            self._writer = self._server.future()
            await self._writer
        if self.done:
            raise CallEnded

    async def read(self) -> bytes | None:
        """Return the next message; None after the last, or if the client has gone."""
        if self._messages is None:
            self._messages = deque()
            self._parse()
        while not self._messages:
            if self.ended or self.done:
                return None
            self._reader = self._server.future()
            await self._reader
        message = self._messages.popleft()
        self._refill()
        return message

    def receive(self, begin: DirectMethod) -> None:
        """Have `begin` called with the one message."""
        self._begin = begin

    # The connection's.

    def on_data(self, data: memoryview, ended: bool) -> None:
        """See `Stream`."""
        self.ended = self.ended or ended
        if self.done:
            return
        size = len(data)
        whole = size >= PREFIX_BYTES and int.from_bytes(data[:PREFIX_BYTES], "big") == size - PREFIX_BYTES
        if whole and self._begin is not None and self._buffer is None:
            self._take(bytes(data[PREFIX_BYTES:]))
            return
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer += data
        if self._begin is not None or self._messages is not None:
            self._parse()

    def on_window(self) -> None:
        """See `Stream`."""
        pending, connection = self._pending, self._connection
        while pending:
            room = min(connection.room(self), connection.largest_frame)
            if room <= 0:
                connection.blocked[self._number] = self
                return
            data = pending[0]
            if len(data) > room:
                pending[0] = data[room:]
                data = data[:room]
            else:
                pending.popleft()
            self.send_window -= len(data)
            connection.send_window -= len(data)
            connection.write(frames.frame(frames.DATA, 0, self._number, data))
        connection.blocked.pop(self._number, None)
        if self._trailers is not None:
            connection.write(frames.frame(frames.HEADERS, _ENDING, self._number, self._trailers))
            self._leave()
        _wake(self._writer)

    def on_reset(self) -> None:
        """See `Stream`."""
        self._pending = None
        self.cancel()

    # What comes.

    def _parse(self) -> None:
        """Take the messages that are whole, and let the client send the rest of one that isn't."""
        buffer = self._buffer if self._buffer is not None else bytearray()
        while not self.done and len(buffer) >= PREFIX_BYTES:
            size = int.from_bytes(buffer[1:PREFIX_BYTES], "big")
            if size > self._server.largest_message:
                self._too_large(size)
                return
            missing = PREFIX_BYTES + size - len(buffer)
            if missing > 0:
                if missing > self.receive_window and not self.ended:
                    self._connection.extend(self._number, self, missing - self.receive_window)
                break
            with memoryview(buffer) as view:
                message: bytes | None = bytes(view[PREFIX_BYTES : PREFIX_BYTES + size])
            compressed = buffer[0]
            del buffer[: PREFIX_BYTES + size]
            if compressed:
                message = self._decompressed(message or b"")
            if message is not None:
                self._take(message)
        if self.ended and not self.done:
            if buffer:
                self.fail(Status.INTERNAL, "a message is cut short")
            elif self._begin is not None:
                self.fail(Status.UNIMPLEMENTED, ONE_MESSAGE)
            else:
                _wake(self._reader)

    def _take(self, message: bytes) -> None:
        if self._messages is not None:
            self._messages.append(message)
            _wake(self._reader)
        elif self._begin is not None:
            begin, self._begin, self._buffer = self._begin, None, None
            begin(message, self)

    def _refill(self) -> None:
        """Let the client send more once half of what it may is read."""
        if not self.ended and self.receive_window < DEFAULT_WINDOW // 2 and not self._messages:
            self._connection.extend(self._number, self, DEFAULT_WINDOW - self.receive_window)

    def _decompressed(self, message: bytes) -> bytes | None:
        largest = self._server.largest_message
        try:
            found = wire_format.decompress(self._head.encoding, message, largest)
        except ValueError as error:
            self.fail(Status.INTERNAL, str(error))
            return None
        if found is None:
            self._too_large(largest + 1)
        return found

    def _too_large(self, size: int) -> None:
        largest = self._server.largest_message
        details = f"Received message larger than max ({size} vs. {largest})"
        self.fail(Status.RESOURCE_EXHAUSTED, details)

    # What goes.

    def _send(self, message: bytes) -> None:
        self._begin_answer()
        compressed = self._compression != "identity"
        if compressed:
            message = wire_format.compress(self._compression, message)
        if self._pending is None:
            self._pending = deque()
        self._pending.append(compressed.to_bytes(1, "big") + len(message).to_bytes(4, "big") + message)
        self.on_window()

    def _begin_answer(self) -> None:
        if not self._began:
            self._began = True
            block = wire_format.answer_head(self._compression)
            self._connection.write(frames.frame(frames.HEADERS, frames.END_HEADERS, self._number, block))

    def _end(self, trailers: bytes) -> None:
        if not self._began:
            trailers = _PLAIN_HEAD + trailers
            self._began = True
        self._trailers = trailers
        if self._number not in self._connection.blocked:
            self.on_window()
        self.on_cancelled = None
        self._finish()

    def _leave(self) -> None:
        """Forget the stream; a client that has not sent everything need not."""
        self._trailers = None
        self._connection.end(self._number, reset=None if self.ended else ErrorCode.NO_ERROR)

    def _expire(self) -> None:
        if not self.done:
            self._pending = None
            on_cancelled, self.on_cancelled = self.on_cancelled, None
            self._end(wire_format.trailers(Status.DEADLINE_EXCEEDED, "Deadline Exceeded"))
            if on_cancelled is not None:
                on_cancelled()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._begin = self._buffer = None
        super()._finish()
        _wake(self._reader)
        _wake(self._writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
