"""Listens as a Kafka broker would, and is wrong at one step of the protocol. Harmless to its clients' memory.

It speaks the protocol's first versions: an answer to ApiVersions, to Metadata (it is the one broker, and has no topic) and to
CreateTopics (it has made them). At the step that it was told it misbehaves instead, on each connection again. A process of its
own; this file is both its program and what starts it.
"""

import asyncio
import contextlib
import json
import struct
import sys

from harness.processes import ROOT, Child

_VERSIONS, _METADATA, _CREATE = 18, 3, 19
STEPS = {"connect": None, "versions": _VERSIONS, "metadata": _METADATA, "create": _CREATE}
"""Where it may be wrong."""
HOW = (
    "closes", "long length", "negative length", "another's answer", "cut off", "too short", "silent", "slow",
    "endless", "no such version", "another protocol", "noise",
)  # fmt: skip
"""How it may be wrong."""
_UNSUPPORTED_VERSION, _UNKNOWN_TOPIC = 35, 3
_SUPPORTED = {_VERSIONS: (0, 0), _METADATA: (0, 1), _CREATE: (0, 1), 32: (0, 1), 2: (0, 1), 10: (0, 1), 9: (0, 1)}
_CHUNK, _MOST = 1 << 20, 128 << 20


class MisbehavingBrokers(Child):
    """A process that is one such broker for each step and way; `addresses` is where they listen."""

    def __init__(self, *wrong: tuple[str, str]) -> None:
        program = [sys.executable, "-P", "-m", "harness.misbehaving_broker", json.dumps(wrong)]
        super().__init__(*program, env={"PYTHONPATH": str(ROOT / "tests")})
        addresses: list[str] = self.wait_for_message("listening")["addresses"]
        self.addresses = dict(zip(wrong, addresses, strict=True))


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, step: int | None, how: str) -> None:
        self._reader, self._writer = reader, writer
        self._step, self._how = step, how
        host, port = writer.get_extra_info("sockname")[:2]
        self._host, self._port = host, port

    async def run(self) -> None:
        if self._step is None:
            await self._misbehave(0, b"\0" * 64)
        while True:
            (length,) = struct.unpack(">i", await self._reader.readexactly(4))
            request = await self._reader.readexactly(length)
            key, version, correlation = struct.unpack(">hhi", request[:8])
            answer = self._answer(key, version, request[8:])
            if key == self._step and not (key == _VERSIONS and version > 0 and self._how == "no such version"):
                await self._misbehave(correlation, answer)
            else:
                await self._write(_framed(struct.pack(">i", correlation) + answer), 0.0)

    async def _misbehave(self, correlation: int, answer: bytes) -> None:
        """Does so, and closes or goes on."""
        body = struct.pack(">i", correlation) + answer
        half = body[: 4 + len(answer) // 2]
        at_once = {
            "closes": b"",
            "long length": b"\x7f\xff\xff\xff" + body,
            "negative length": b"\xff\xff\xff\xf0" + body,
            "another's answer": _framed(struct.pack(">i", correlation + 1000) + answer),
            "cut off": struct.pack(">i", len(body)) + half,
            "too short": _framed(half),
            "silent": b"",
            "no such version": _framed(struct.pack(">ihi", correlation, _UNSUPPORTED_VERSION, 0)),
            "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            "noise": bytes((7 * number * number + 13) % 256 for number in range(4096)),
        }
        if self._how == "slow":
            for byte in _framed(body):
                await self._write(bytes([byte]), 1.0)
        elif self._how == "endless":
            for _ in range(_MOST // _CHUNK):
                await self._write(_framed(b"\0" * _CHUNK), 0.1)
        else:
            await self._write(at_once[self._how], 0.0)
        if self._how in ("closes", "cut off"):
            raise ConnectionError
        if self._how == "silent" or self._step is None:
            await asyncio.Event().wait()

    async def _write(self, data: bytes, pause: float) -> None:
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(pause)

    def _answer(self, key: int, version: int, body: bytes) -> bytes:
        if key == _VERSIONS:
            supported = _SUPPORTED if version == 0 else {_VERSIONS: (0, 0)}
            error = 0 if version == 0 else _UNSUPPORTED_VERSION
            return struct.pack(">hi", error, len(supported)) + b"".join(
                struct.pack(">hhh", one, *versions) for one, versions in supported.items()
            )
        topics = _topics_of(key, body)
        if key == _METADATA:
            me = struct.pack(">i", 1) + _text(self._host) + struct.pack(">i", self._port)
            brokers = struct.pack(">i", 1) + me + (struct.pack(">hi", -1, 1) if version else b"")
            internal = b"\0" if version else b""
            unknown = [struct.pack(">h", _UNKNOWN_TOPIC) + _text(name) + internal + _NONE for name in topics]
            return brokers + struct.pack(">i", len(unknown)) + b"".join(unknown)
        if key == _CREATE:
            message = struct.pack(">h", -1) if version else b""
            made = [_text(name) + struct.pack(">h", 0) + message for name in topics]
            return struct.pack(">i", len(made)) + b"".join(made)
        raise ConnectionError


_NONE = struct.pack(">i", 0)


def _framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def _topics_of(key: int, body: bytes) -> list[str]:
    """The topics that a request of the first versions names: of those to be made the first is enough."""
    (skipped,) = struct.unpack(">h", body[:2])
    body = body[2 + max(skipped, 0) :]
    (count,) = struct.unpack(">i", body[:4])
    body, found = body[4:], []
    for _ in range(min(max(count, 0), 1 if key == _CREATE else 16)):
        (length,) = struct.unpack(">h", body[:2])
        found.append(body[2 : 2 + length].decode())
        body = body[2 + length :]
    return found


async def _listen(step: str, how: str) -> str:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, struct.error, UnicodeDecodeError):
            await _Connection(reader, writer, STEPS[step], how).run()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _servers.append(server)
    host, port = server.sockets[0].getsockname()
    return f"{host}:{port}"


_servers: list[asyncio.Server] = []


async def _main() -> None:
    addresses = [await _listen(step, how) for step, how in json.loads(sys.argv[1])]
    sys.stderr.write(json.dumps({"message": "listening", "addresses": addresses}) + "\n")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
