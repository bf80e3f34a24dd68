"""A model's server over bare TCP: what it answers is written byte by byte by the test. It runs on a thread of its own."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

CLOSE = None  # as a step: end the connection
METADATA = {
    "name": "raw", "versions": ["1"],
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
}  # fmt: skip
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"


class Asked(NamedTuple):
    """A request as it came. The names of its headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    number: int  # of those to `answer`, from 1

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def sums(self) -> list[float]:
        """What the model says to it: the sum of each row."""
        data = self.document["inputs"][0]["data"]
        flat = [value for row in data for value in row] if data and isinstance(data[0], list) else data
        return [flat[i] + flat[i + 1] for i in range(0, len(flat), 2)]


Step = bytes | float | None  # bytes, seconds to wait, or CLOSE
Script = Callable[[Asked], Iterable[Step]]


def response(status: int, body: bytes | dict[str, Any] = b"", *more: str) -> bytes:
    """A whole answer; `more`: further header lines."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} So It Is", f"Content-Length: {len(text)}", "Content-Type: application/json", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


def answer_to(asked: Asked, *more: str, **members: Any) -> bytes:
    """The right answer: with the request's id, and its sums."""
    output = {"name": "y", "datatype": "FP32", "shape": [len(asked.sums)], "data": asked.sums}
    body = {"id": asked.document.get("id", ""), "model_version": "1", "outputs": [output], **members}
    return response(200, {name: value for name, value in body.items() if value != ""}, *more)


class RawModel:
    """Says that it is ready, describes its model, and answers all else as `script` says."""

    def __init__(self) -> None:
        self.script: Script = lambda asked: [answer_to(asked)]
        self.ready = True
        self.metadata: bytes = response(200, METADATA)
        self.asked: list[Asked] = []  # what `script` was asked
        self.connections = 0  # that asked something of `script`
        self.probes = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def reset(self) -> None:
        self.script = lambda asked: [answer_to(asked)]
        self.ready = True
        self.metadata = response(200, METADATA)
        self.asked.clear()
        self.connections = 0

    def say(self, data: bytes) -> None:
        """Send something on all connections, without having been asked; returns when it is sent."""

        async def send() -> None:
            for writer in list(self._writers):
                with contextlib.suppress(ConnectionError):  # its client may have left it in the middle of an answer
                    writer.write(data)
                    await writer.drain()

        asyncio.run_coroutine_threadsafe(send(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26))
        self.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        first = True
        try:
            while (asked := await _read(reader, len(self.asked) + 1)) is not None:
                fixed = self._fixed(asked)
                if fixed is not None:
                    writer.write(fixed)
                    continue
                self.asked.append(asked)
                self.connections += first
                first = False
                for step in self.script(asked):
                    if step is CLOSE:
                        return
                    if isinstance(step, float):
                        await writer.drain()
                        await asyncio.sleep(step)
                    else:
                        writer.write(step)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _fixed(self, asked: Asked) -> bytes | None:
        path = asked.target.partition("?")[0]
        if asked.method == "GET" and path == "/v2/health/ready":
            self.probes += 1
            return response(200 if self.ready else 503)
        if asked.method == "GET" and path == "/v2":
            return response(200, {"name": "raw", "extensions": []})
        if asked.method == "GET" and path == "/v2/models/raw" and "?" not in asked.target:
            return self.metadata
        if asked.method == "GET" and path == "/v2/models/raw/config":
            return response(404, {"error": "what?"})
        return None

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


async def _read(reader: asyncio.StreamReader, number: int) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, target, headers, body, number)
