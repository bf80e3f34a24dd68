"""Requests over HTTP that come at a rate, at random or evenly, whatever became of those before: what a closed loop of clients
can't show.
"""

import asyncio
import re
import time

from bench.loads import Way
from bench.queueing import at, gaps


def paced(way: Way, arrivals: str, rate: float, seconds: float) -> tuple[float, float]:
    """p50 and p95 in ms of requests at `rate` a second, counted from when each was due. arrivals: see `queueing.ARRIVALS`."""
    head = f"POST {way.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(way.body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in way.headers.items())
    taken = asyncio.run(_run(way.port, f"{head}\r\n".encode() + way.body, arrivals, rate, seconds))
    taken.sort()
    return at(taken, 0.5), at(taken, 0.95)


async def _run(port: int, request: bytes, arrivals: str, rate: float, seconds: float) -> list[float]:
    taken: list[float] = []
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(due: float) -> None:
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"\r\ncontent-length: (\d+)", answer, re.IGNORECASE)
        assert answer.startswith(b"HTTP/1.1 200")
        assert size is not None
        await reader.readexactly(int(size[1]))
        taken.append((time.monotonic() - due) * 1000)
        idle.append((reader, writer))

    between = gaps(arrivals, rate)
    due = time.monotonic()
    end = due + seconds
    async with asyncio.TaskGroup() as tasks:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(ask(due))
            due += next(between)
    for _, writer in idle:
        writer.close()
    return taken
