"""What a client's frame costs to read, and what a reader weighs: the gateway's own beside that of `websockets`.

    .venv/bin/python tests/bench/frames.py

The sans-I/O protocol of `websockets` is public and could stand behind any handshake; picows has its
listener and its handshake in one, so that REST and the WebSocket would need two ports. It prints CPU-µs a frame, the least of
some rounds in turn, for masked texts of a client, fed as a socket brings them, and bytes a connection.
"""

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from aiohttp._websocket.helpers import websocket_mask
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from podpair.gateway.core.frame_reader import FrameReader, unmask

_LIMIT = 1 << 20
_ROUNDS, _FRAMES = 7, 4000
_SIZES = {"a request of 64 floats": 600, "4 KiB": 4096, "64 KiB": 65536}


def masked(size: int) -> bytes:
    """A text frame of a client."""
    text = json.dumps({"type": "infer", "data": "x" * size}).encode()[:size]
    return Frame(Opcode.TEXT, text).serialize(mask=True, extensions=[])


def own(mask: Any) -> Callable[[], Callable[[bytes], int]]:
    """Make a reader: fed with bytes it returns how many messages there were."""

    def make() -> Callable[[bytes], int]:
        reader = FrameReader(_LIMIT, mask)

        def feed(data: bytes) -> int:
            if reader.whole_text(data) is not None:
                return 1
            reader.feed(data)
            found = 0
            while reader.next() is not None:
                found += 1
            return found

        return feed

    return make


def theirs() -> Callable[[bytes], int]:
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=_LIMIT)

    def feed(data: bytes) -> int:
        protocol.receive_data(data)
        events = protocol.events_received()
        return sum(1 for frame in events if frame.opcode is Opcode.TEXT and frame.data.decode() is not None)

    return feed


READERS: dict[str, Callable[[], Callable[[bytes], int]]] = {
    "podpair's": own(websocket_mask),
    "podpair's, without aiohttp's mask": own(unmask),
    "websockets": theirs,
}


def cost(make: Callable[[], Callable[[bytes], int]], data: bytes) -> float:
    """CPU-µs a frame, one frame a read."""
    feed, frames = make(), max(200, _FRAMES * 600 // len(data))
    began = time.thread_time()
    found = sum(feed(data) for _ in range(frames))
    spent = time.thread_time() - began
    assert found == frames
    return spent * 1e6 / frames


def weight(make: Callable[[], Callable[[bytes], int]]) -> int:
    """Bytes of a connection's reader that has read a message."""
    data = masked(100)
    tracemalloc.start()
    kept = [make() for _ in range(500)]
    for feed in kept:
        feed(data)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size // len(kept)


if __name__ == "__main__":
    for what, size in _SIZES.items():
        data, least = masked(size), dict.fromkeys(READERS, float("inf"))
        for _ in range(_ROUNDS):
            for name, make in READERS.items():
                least[name] = min(least[name], cost(make, data))
        print(json.dumps({"message": what, **{name: round(value, 2) for name, value in least.items()}}))
    print(json.dumps({"bytes a connection": {name: weight(make) for name, make in READERS.items()}}))
