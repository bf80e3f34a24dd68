"""What an answer from the cache costs beside one of the model: CPU of the pair, gateway and model, a request.

    .venv/bin/python tests/bench/cached.py [--rounds 5] [--seconds 3] [--models mlp,cnn]

Questions that are all the same (hits) and questions that are all different (misses) are asked in turn, of one gateway, over
WebSockets and over V2, by this process, which does not count. It prints a JSON line for each: microseconds of CPU a request, and
the ratio of the two, round by round.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import numpy as np

from bench.cnn import SHAPE, write_cnn
from bench.measuring import cpu_seconds, spread
from bench.mlp import WIDTH, write_mlp
from bench.recording import Recording
from harness.pair import Gateway, Inference, token

_SHAPES = {"mlp": (WIDTH,), "cnn": SHAPE}
_numbers = itertools.count()  # no two questions of a run are the same by chance
_BEARER = {"Authorization": f"Bearer {token()}"}


class Question:
    """Rows that differ in one number, as text; `same`: they are always the same."""

    def __init__(self, model: str) -> None:
        self.model = model
        values = np.random.default_rng(3).random(_SHAPES[model]).round(3)
        self._rest = json.dumps(values.ravel().tolist()[1:])[1:]
        self._shape = list(_SHAPES[model])
        self._number = next(_numbers)
        self.same = False

    def data(self) -> str:
        """The elements of the next question."""
        if not self.same:
            self._number = next(_numbers)
        return f"[{self._number}, {self._rest}"

    def frame(self, request_id: int) -> str:
        """The next question as an `infer`."""
        data = self.data()
        if len(self._shape) > 1:
            tensor = f'[{{"name":"x","shape":{[1, *self._shape]},"datatype":"FP32","data":{data}}}]'
            return f'{{"type":"infer","id":"{request_id}","model":"{self.model}","route":"direct","inputs":{tensor}}}'
        return f'{{"type":"infer","id":"{request_id}","model":"{self.model}","route":"direct","data":{data}}}'

    def body(self) -> str:
        """The next question in V2."""
        return f'{{"inputs":[{{"name":"x","shape":{[1, *self._shape]},"datatype":"FP32","data":{self.data()}}}]}}'


Asker = Callable[[Question, float], Awaitable[int]]


async def over_websocket(gateway: Gateway, http: aiohttp.ClientSession, depth: int) -> Asker:
    """Ask in a session, `depth` questions at a time."""
    socket = await http.ws_connect(gateway.ws, headers=_BEARER, max_msg_size=0)
    await socket.receive()
    ids = iter(range(1 << 40))

    async def ask(question: Question, seconds: float) -> int:
        end, answered, going = time.monotonic() + seconds, 0, 0
        while going or time.monotonic() < end:
            while going < depth and time.monotonic() < end:
                await socket.send_str(question.frame(next(ids)))
                going += 1
            event = await socket.receive_str()
            if '"type":"result"' in event:
                assert ('"cache":"hit"' in event) == question.same or answered < depth, event
                answered, going = answered + 1, going - 1
            assert '"type":"error"' not in event, event
        return answered

    return ask


async def over_v2(gateway: Gateway, http: aiohttp.ClientSession, depth: int) -> Asker:
    """Ask over HTTP, on `depth` connections."""

    async def one(question: Question, end: float) -> int:
        answered = 0
        url = f"{gateway.url}/v2/models/{question.model}/infer"
        headers = {**_BEARER, "Content-Type": "application/json"}
        while time.monotonic() < end:
            async with http.post(url, data=question.body(), headers=headers) as response:
                await response.read()
                assert response.status == 200, await response.text()
            answered += 1
        return answered

    async def ask(question: Question, seconds: float) -> int:
        return sum(await asyncio.gather(*[one(question, time.monotonic() + seconds) for _ in range(depth)]))

    return ask


async def measure(pids: list[int], ask: Asker, question: Question, seconds: float, *, same: bool) -> float:
    """Microseconds of CPU of these processes for each request."""
    question.same = same
    await ask(question, 0.2)  # what is asked once for all is asked
    before = sum(map(cpu_seconds, pids))
    answered = await ask(question, seconds)
    return (sum(map(cpu_seconds, pids)) - before) * 1e6 / answered


WAYS = {
    "WebSocket, 1 open": (over_websocket, 1),
    "WebSocket, 32 open": (over_websocket, 32),
    "V2, 8 open": (over_v2, 8),
}


@contextmanager
def pair(folder: Path) -> Iterator[tuple[Gateway, list[int]]]:
    """A gateway that caches both models, and the processes of the pair."""
    models = write_mlp(folder / "models")
    write_cnn(models)
    with ExitStack() as stack:
        model = Inference(0, models)
        stack.callback(model.kill)
        config = {
            "kafka": {"embedded": True},
            "inference": {"url": model.url},
            "cache": {"models": [{"model": name, "scope": "shared"} for name in _SHAPES]},
            "limits": {"message_bytes": 16 << 20},
        }
        gateway = Gateway(folder, config)
        stack.callback(gateway.kill)
        gateway.wait_ready()
        yield gateway, [gateway.pid, model.pid]


async def compare(
    gateway: Gateway, pids: list[int], model: str, way: str, rounds: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Microseconds of CPU of hits and of misses, round by round."""
    connect, depth = WAYS[way]
    question, hits, misses = Question(model), [], []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        ask = await connect(gateway, http, depth)
        for _ in range(rounds):
            hits.append(await measure(pids, ask, question, seconds, same=True))
            misses.append(await measure(pids, ask, question, seconds, same=False))
    return hits, misses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--models", default="mlp,cnn", help="which of them")
    options = parser.parse_args()
    recording = Recording("cached")
    with tempfile.TemporaryDirectory() as name, pair(Path(name)) as (gateway, pids):
        for model in options.models.split(","):
            for way in WAYS:
                hits, misses = asyncio.run(compare(gateway, pids, model, way, options.rounds, options.seconds))
                values = {"hit µs": spread(hits), "miss µs": spread(misses)}
                values["hit, of a miss"] = spread([hit / miss for hit, miss in zip(hits, misses, strict=True)])
                recording.row({"model": model, "way": way}, values)
    recording.close()


if __name__ == "__main__":
    main()
