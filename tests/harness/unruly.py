"""Stands between a gateway and its model as a server that misbehaves would: busy, with interim answers, or speaking nonsense.

A process of its own, so that it is neither the test's loop nor the model's. It passes everything on until it is told
otherwise, and what asks for the model's health always. This file is both its program and what starts it.
"""

import asyncio
import contextlib
import json
import sys
import urllib.request
from typing import Literal

from harness.processes import ROOT, Child

Mood = Literal["well", "busy", "interim", "nonsense"]

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%b"
_INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
)
_NONSENSE = b"220 mail.example.org ESMTP\r\n"
_CONTROL = b"PUT /-/mood/"


class Unruly:
    """The proxy. It reads whole requests, one after the other on a connection, and passes answers on as they come."""

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._mood: str = "well"

    async def run(self) -> None:
        """Tell where it listens, and go on until killed."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        port = server.sockets[0].getsockname()[1]
        sys.stderr.write(json.dumps({"message": "listening", "port": port}) + "\n")
        await asyncio.Event().wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        model: _Upstream | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                if head.startswith(_CONTROL):
                    self._mood = head[len(_CONTROL) :].split(b" ", 1)[0].decode()
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                    continue
                mood = self._mood if b"/infer" in head.split(b"\r\n", 1)[0] else "well"
                if mood == "busy":
                    told = b'{"error":"the queue is full"}'
                    writer.write(_BUSY % (len(told), told))
                    continue
                if mood == "nonsense":
                    writer.write(_NONSENSE)
                    return
                if model is None:
                    model = await _Upstream.connect(self._target, writer)
                model.interim = mood == "interim"
                model.writer.write(head + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            """Either side has gone."""
        finally:
            writer.close()
            if model is not None:
                model.close()


class _Upstream:
    """A connection to the model, whose answers go to the gateway's."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gateway: asyncio.StreamWriter
    ) -> None:
        self._reader, self.writer, self._gateway = reader, writer, gateway
        self.interim = False  # the next answer comes behind interim ones
        self._passing = asyncio.create_task(self._pass())

    @classmethod
    async def connect(cls, port: int, gateway: asyncio.StreamWriter) -> "_Upstream":
        """Raises ConnectionError where the model is away."""
        return cls(*await asyncio.open_connection("127.0.0.1", port), gateway)

    async def _pass(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                if self.interim:
                    self.interim = False
                    for early in _INTERIM:  # each in a segment of its own, and a moment before what follows
                        self._gateway.write(early)
                        await asyncio.sleep(0.01)
                self._gateway.write(data)
        self._gateway.close()

    def close(self) -> None:
        self._passing.cancel()
        self.writer.close()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class UnrulyModel(Child):
    """The proxy before the model at `target` (a port of 127.0.0.1), on a port of its own for life."""

    def __init__(self, target: int, port: int = 0) -> None:
        # Not by its path: Python would take this folder's modules, such as operator.py, for its own.
        program = [sys.executable, "-P", "-m", "harness.unruly"]
        super().__init__(*program, str(port), str(target), env={"PYTHONPATH": str(ROOT / "tests")})
        self.port: int = self.wait_for_message("listening")["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def be(self, mood: Mood) -> None:
        """How it behaves from the next request on."""
        request = urllib.request.Request(f"{self.url}/-/mood/{mood}", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            """It has heard."""


if __name__ == "__main__":
    asyncio.run(Unruly(int(sys.argv[1]), int(sys.argv[2])).run())
