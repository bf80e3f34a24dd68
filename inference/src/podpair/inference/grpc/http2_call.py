"""A call of `http2_server`: one stream, from its messages to its status.

Invariant: a call ends once; what it still has to send then goes as the client's windows open, and nothing refers to it after.
Who waits for its messages, or for room to write, goes on when it ends, however that is.
"""

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from podpair.inference.core.errors import OverloadedError
from podpair.inference.grpc import wire_format
from podpair.inference.grpc.call import CallEnded, DirectMethod, Headers, MethodCall
from podpair.inference.grpc.message_assembler import MessageAssembler
from podpair.inference.grpc.methods import ONE_MESSAGE
from podpair.inference.grpc.status import Status
from podpair.inference.grpc.wire_format import PREFIX_BYTES, Decompression, Head
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
# Larger messages are compressed in a thread.
_LARGE = 65_536
# Bytes that a method writes before others have their turn, and what each message counts beside its own.
_BURST, _MESSAGE = 65_536, 2048


class Http2Call(MethodCall):
    """A `Call`, the context of its method, and a connection's `Stream`."""

    __slots__ = (
        "_began", "_begin", "_burst", "_compression", "_connection", "_deadline", "_decompressing", "_exhausted", "_given",
        "_head", "_incoming", "_length", "_number", "_pending", "_reader", "_server", "_timer", "_trailers", "_writer", "ended",
        "receive_window", "send_window",
    )  # fmt: skip

    def __init__(self, server: "Http2Server", connection: Connection, number: int, head: Head, ended: bool) -> None:
        super().__init__()
        self._server, self._connection, self._number, self._head = server, connection, number, head
        self.send_window, self.receive_window = connection.initial_window, DEFAULT_WINDOW
        # Whether the client has sent everything, and what is still to come if it announced that.
        self.ended, self._length = ended, head.length
        self._began = False
        self._compression = server.compression if server.compression in head.accepted else "identity"
        # What is called with the one message; whether it has been.
        self._begin: DirectMethod | None = None
        self._given = False
        # Messages that came in pieces or are to be read, who waits for one, and whether all have come.
        self._incoming: MessageAssembler | None = None
        self._reader: asyncio.Future[None] | None = None
        self._decompressing = self._exhausted = False
        # Data that waits for a window, the trailers after it, and who waits for room.
        self._pending: deque[bytes] | None = None
        self._trailers: bytes | None = None
        self._writer: asyncio.Future[None] | None = None
        self._burst = 0
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
        if self._compression != "identity":
            self._answer_compressed(message)
            return
        size = len(message) + PREFIX_BYTES
        connection = self._connection
        if self._began or connection.before_block or size > min(connection.room(self), connection.largest_frame):
            self._send(_prefixed(message))
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

    async def send(self, data: bytes) -> None:
        """See `MethodCall`."""
        if self._compression == "identity":
            message = _prefixed(data)
        elif len(data) < _LARGE:
            message = _compressed(self._compression, data)
        else:
            message = await asyncio.to_thread(_compressed, self._compression, data)
        if not self.done:
            self._send(message)
        while self._pending and not self.done:
            self._burst = 0
            self._writer = self._server.future()
            await self._writer
        if self.done:
            raise CallEnded
        self._burst += _MESSAGE + len(data)
        if self._burst >= _BURST:
            self._burst = 0
            await asyncio.sleep(0)

    async def next_message(self) -> bytes | None:
        """See `MethodCall`."""
        incoming = self._assembler()
        while not incoming:
            if self._exhausted or self.done:
                return None
            self._reader = self._server.future()
            await self._reader
        message = incoming.next()
        self._refill()
        return message

    def receive(self, begin: DirectMethod) -> None:
        """Have `begin` called with the one message."""
        self._begin = begin

    # The connection's.

    def on_data(self, data: memoryview, ended: bool) -> None:
        """See `Stream`."""
        self.ended = self.ended or ended
        if self._length is not None:
            self._length -= len(data)
            if self._length < 0 or (ended and self._length):
                # Malformed (RFC 9113, 8.1.1).
                self._connection.end(self._number, reset=ErrorCode.PROTOCOL_ERROR)
                self.on_reset()
        if self.done or self._given:
            return
        if self._begin is not None and self._incoming is None:
            size = len(data)
            # Whole, and not compressed.
            if size >= PREFIX_BYTES and int.from_bytes(data[:PREFIX_BYTES], "big") == size - PREFIX_BYTES:
                self._give(self._begin, bytes(data[PREFIX_BYTES:]))
                return
        self._assembler().add(data)
        self._advance()

    def on_window(self) -> None:
        """See `Stream`."""
        pending, connection = self._pending, self._connection
        while pending:
            room = min(connection.room(self), connection.largest_frame)
            if room <= 0:
                if self.send_window > 0:
                    connection.wait(self._number, self)
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
        if self._trailers is not None:
            connection.write_block(self._number, self._trailers, ended=True)
            self._leave()
        _wake(self._writer)

    def on_reset(self) -> None:
        """See `Stream`."""
        self._pending = self._trailers = None
        self.cancel()

    # What comes.

    def _assembler(self) -> MessageAssembler:
        if self._incoming is None:
            self._incoming = MessageAssembler(self._server.budget)
        return self._incoming

    def _advance(self) -> None:
        """Take the messages that are whole, and let the client send the rest of one that isn't."""
        incoming = self._assembler()
        while not (self.done or self._given or self._decompressing):
            if incoming.size > self._server.largest_message:
                self._fail_too_large(incoming.size)
            elif (found := incoming.take()) is None:
                break
            elif found[0]:
                self._decompress(found[1])
            else:
                self._deliver(found[1])
        if self.done or self._given or self._decompressing:
            return
        if not self.ended:
            self._expect_more(incoming)
        elif incoming.is_partial:
            self.fail(Status.INTERNAL, "a message is cut short")
        elif self._begin is not None:
            self.fail(Status.UNIMPLEMENTED, ONE_MESSAGE)
        else:
            self._exhausted = True
            _wake(self._reader)

    def _expect_more(self, incoming: MessageAssembler) -> None:
        """Find room for a message that is still coming; its end may come once those before it are read."""
        if not incoming.is_partial or incoming:
            return
        try:
            incoming.expect()
        except OverloadedError as error:
            self._server.calls.fail(self, error)
            return
        if incoming.missing > self.receive_window:
            self._connection.extend(self._number, self, incoming.missing - self.receive_window)

    def _deliver(self, message: bytes) -> None:
        if self._begin is not None:
            self._give(self._begin, message)
        else:
            self._assembler().queue(message)
            _wake(self._reader)

    def _give(self, begin: DirectMethod, message: bytes) -> None:
        self._begin, self._given = None, True
        if self._incoming is not None:
            self._incoming.clear()
        begin(message, self)

    def _refill(self) -> None:
        """Let the client send more once what came is read and half of what it may is used."""
        incoming = self._assembler()
        if self.ended or incoming:
            return
        self._expect_more(incoming)
        if not self.done and self.receive_window < DEFAULT_WINDOW // 2:
            self._connection.extend(self._number, self, DEFAULT_WINDOW - self.receive_window)

    def _decompress(self, message: bytes) -> None:
        work = Decompression(self._head.encoding, message, self._server.largest_message)
        try:
            if work.begin():
                self._deliver_decompressed(work)
                return
        except ValueError as error:
            self.fail(Status.INTERNAL, str(error))
            return
        # A thread has it, even if the call ends.
        self._decompressing = True
        budget, size = self._server.budget, len(message)
        budget.bytes += size

        def done(running: asyncio.Future[None]) -> None:
            budget.bytes -= size
            self._decompressing = False
            if self.done:
                return
            try:
                running.result()
                self._deliver_decompressed(work)
            except ValueError as error:
                self.fail(Status.INTERNAL, str(error))
            self._advance()

        self._server.in_thread(work.run).add_done_callback(done)

    def _deliver_decompressed(self, work: Decompression) -> None:
        message = work.message()
        if message is None:
            self._fail_too_large(self._server.largest_message + 1)
        else:
            self._deliver(message)

    def _fail_too_large(self, size: int) -> None:
        largest = self._server.largest_message
        self.fail(Status.RESOURCE_EXHAUSTED, f"Received message larger than max ({size} vs. {largest})")

    # What goes.

    def _send(self, message: bytes) -> None:
        """Send a message with its prefix, as far as the client has room."""
        if not self._began:
            self._began = True
            self._connection.write_block(self._number, wire_format.answer_head(self._compression))
        if self._pending is None:
            self._pending = deque()
        self._pending.append(message)
        self.on_window()

    def _answer_compressed(self, message: bytes) -> None:
        work = partial(_compressed, self._compression, message)
        if len(message) < _LARGE:
            self._send(work())
            self._end(_OK_TRAILERS)
            return

        def send(running: asyncio.Future[bytes]) -> None:
            # Unless the client has gone.
            if self._connection.streams.get(self._number) is self:
                self._trailers = _OK_TRAILERS
                self._send(running.result())

        self.on_cancelled = None
        self._finish()
        self._server.in_thread(work).add_done_callback(send)

    def _end(self, trailers: bytes) -> None:
        if not self._began:
            trailers = _PLAIN_HEAD + trailers
            self._began = True
        self._trailers = trailers
        self.on_window()
        self.on_cancelled = None
        self._finish()

    def _leave(self) -> None:
        """Forget the stream; a client that has not sent everything need not."""
        self._trailers = None
        self._connection.end(self._number, reset=None if self.ended else ErrorCode.NO_ERROR)

    def _expire(self) -> None:
        if not self.done:
            # The client has no use for the rest of what waits for its window, but is to learn why.
            self._pending = None
            on_cancelled, self.on_cancelled = self.on_cancelled, None
            self._end(wire_format.trailers(Status.DEADLINE_EXCEEDED, "Deadline Exceeded"))
            if on_cancelled is not None:
                on_cancelled()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._begin = None
        if self._incoming is not None:
            self._incoming.clear()
        super()._finish()
        _wake(self._reader)
        _wake(self._writer)


def _prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _compressed(encoding: str, message: bytes) -> bytes:
    message = wire_format.compress(encoding, message)
    return b"\1" + len(message).to_bytes(4, "big") + message


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
