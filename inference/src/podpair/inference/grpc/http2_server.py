"""A gRPC server over our own HTTP/2: frames to messages to calls in one turn of the loop, without a thread and without tasks.

grpcio's core, which its Python servers stand on, costs a call five events that a thread hands over, and 20 MB. Requests of one
connection that come together are read, run and answered together (docs/benchmarks.md).

Invariant: everything happens in the loop's thread; a call ends once.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from podpair.inference.grpc import wire_format
from podpair.inference.grpc.calls import Calls
from podpair.inference.grpc.http2_call import Http2Call
from podpair.inference.grpc.methods import Methods
from podpair.inference.grpc.wire_format import Head
from podpair.inference.http2 import frames
from podpair.inference.http2.connection import Connection
from podpair.inference.http2.frames import ErrorCode
from podpair.inference.http2.header_blocks import literal

_BACKLOG = 1024
_LARGEST_MESSAGE = 4 << 20


class Http2Server(Methods):
    """The server; see `call.RpcServer`.

    options: the core's channel arguments for the largest message and for compression. calls: what counts and reports failures;
    its memory budget has room for the messages that are still coming, or not.
    """

    def __init__(self, options: Mapping[str, int], calls: Calls) -> None:
        super().__init__()
        self.calls, self.budget = calls, calls.budget
        self._connections: set[Connection] = set()
        # Set while there are none.
        self._empty = asyncio.Event()
        self._empty.set()
        self.largest_message = options.get("grpc.max_receive_message_length", _LARGEST_MESSAGE)
        self.compression = wire_format.ENCODINGS[options.get("grpc.default_compression_algorithm", 0)]
        self.now = self._loop.time
        self.call_at = self._loop.call_at
        self.in_thread = partial(self._loop.run_in_executor, None)
        self.future: Callable[[], asyncio.Future[None]] = self._loop.create_future
        self._listener: asyncio.Server | None = None
        self._socket = ""
        self._stopping = False

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, once. Return the port. Raises RuntimeError if it is taken."""
        if self._stopping:
            raise RuntimeError("it has been stopped")
        scheme, _, path = address.partition(":")
        try:
            if scheme == "unix":
                self._socket = path
                self._listener = await self._loop.create_unix_server(self._accept, path, backlog=_BACKLOG)
                return 1
            host, _, port = address.rpartition(":")
            self._listener = await self._loop.create_server(self._accept, host.strip("[]"), int(port), backlog=_BACKLOG)
        except OSError as error:
            raise RuntimeError(f"can't listen on {address}: {error.strerror or error}") from None
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Accept no more calls, and end the present ones after `seconds`."""
        self._stopping = True
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        if self._socket:
            with suppress(OSError):
                os.unlink(self._socket)
        for connection in list(self._connections):
            connection.leave()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            for connection in self._connections:
                connection.abort()
            await self._empty.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> Connection:
        return Connection(self)

    # The connections'.

    def on_connected(self, connection: Connection) -> None:
        """See `StreamServer`."""
        self._connections.add(connection)
        self._empty.clear()
        if self._stopping:
            connection.abort()

    def on_disconnected(self, connection: Connection) -> None:
        """See `StreamServer`."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def parse(self, fields: Iterable[tuple[bytes, bytes]]) -> Head:
        """See `StreamServer`."""
        return wire_format.parse_head(fields)

    def open(self, connection: Connection, stream: int, head: Any, ended: bool) -> None:
        """See `StreamServer`."""
        if head.http_status != 200:
            connection.write_block(stream, literal(b":status", b"%d" % head.http_status), ended=True)
            if not ended:
                connection.write(frames.reset(stream, ErrorCode.NO_ERROR))
            return
        call = Http2Call(self, connection, stream, head, ended)
        connection.streams[stream] = call
        if head.refused is not None:
            call.fail(*head.refused)
            return
        self.begin(head.path, call)
        if ended and not call.done:
            call.on_data(memoryview(b""), True)
