"""A client of HTTP/2 that sends the frames that it is given, and the server of the tests of this folder."""

import asyncio
import struct

from hpack import Decoder, Encoder

from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.grpc.calls import Calls
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.http2 import frames
from podpair.inference.http2.frames import ErrorCode
from podpair.inference.metrics import Metrics

LARGEST_MESSAGE = 1 << 20
ENDS = frames.END_HEADERS | frames.END_STREAM


class Client:
    """A client that sends the frames that it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder, self.decoder = Encoder(), Decoder(1 << 20)

    def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))

    def block(self, path: str = "/s/Echo", **more: str) -> bytes:
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "a",
            "content-type": "application/grpc",
        }
        fields |= {name.replace("_", "-"): value for name, value in more.items()}
        encoded: bytes = self._encoder.encode(list(fields.items()))
        return encoded

    def ask(self, stream: int, message: bytes = b"hello", path: str = "/s/Echo", **more: str) -> None:
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, self.block(path, **more))
        self.send(head, frames.frame(frames.DATA, frames.END_STREAM, stream, prefixed(message)))

    async def frame(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """Return the next frame of these kinds: kind, flags, stream, payload."""
        while True:
            head = await asyncio.wait_for(self._reader.readexactly(frames.HEAD_BYTES), 30)
            upper, lower, kind, flags, stream = frames.HEAD.unpack(head)
            payload = await self._reader.readexactly(upper << 8 | lower)
            if kind in kinds:
                return kind, flags, stream, payload

    async def answer(self, stream: int) -> tuple[bytes, dict[str, str]]:
        """Return a call's messages, with their prefixes, and its trailers."""
        data, block, fields, ended = b"", b"", {}, False
        while not ended or block:
            kind, flags, number, payload = await self.frame(frames.DATA, frames.HEADERS, frames.CONTINUATION)
            assert number == stream
            assert len(payload) <= frames.SMALLEST_FRAME
            if kind == frames.DATA:
                data += payload
            else:
                block += payload
                if flags & frames.END_HEADERS:
                    fields |= {str(name): str(value) for name, value in self.decoder.decode(block)}
                    block = b""
            ended = ended or (kind != frames.CONTINUATION and bool(flags & frames.END_STREAM))
        return data, fields

    def close(self) -> None:
        self._writer.close()

    async def settled(self) -> None:
        """Wait until the server has handled what was sent up to now."""
        self.send(frames.frame(frames.PING, 0, 0, b"settled?"))
        while (await self.frame(frames.PING))[3] != b"settled?":
            pass

    async def ended(self) -> None:
        """Wait until the server has closed the connection."""
        assert await asyncio.wait_for(self._reader.read(), 30) is not None

    async def fault(self) -> ErrorCode:
        """Return why the server ends the connection, which it does."""
        _, _, _, payload = await self.frame(frames.GOAWAY)
        await self.ended()
        return ErrorCode(struct.unpack_from(">LL", payload)[1])


def prefixed(message: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BL", compressed, len(message)) + message


def increment(stream: int, size: int) -> bytes:
    return frames.window_update(stream, size)


def make_server(pending_bytes: int = 1 << 30, **options: int) -> Http2Server:
    """Return a server that echoes, and has room for so many bytes of large messages."""
    known = {"largest": "grpc.max_receive_message_length", "compression": "grpc.default_compression_algorithm"}
    calls = Calls(Metrics(), MemoryBudget(pending_bytes))
    server = Http2Server({known[name]: value for name, value in options.items()}, calls)
    server.add_direct("s", "Echo", lambda message, call: call.answer(message))
    return server
