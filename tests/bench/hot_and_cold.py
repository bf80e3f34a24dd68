"""The hot path beside a saturated cold one: direct requests at a human pace, alone and while the queue is never empty.

One pair and a real broker on this machine; a Python model that takes 5 ms a run and runs rows alone, so that a core is not what
is short. Direct requests come 50 a second, queued ones are open 256 at a time on other connections. Sides go in turn.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from bench.measuring import spread
from bench.queueing import at
from bench.recording import Recording
from harness.kafka import Broker
from harness.pair import RESUME_SECRET, SECRET, token
from harness.processes import ROOT, Child
from podpair import client

_RATE = 50  # direct requests a second
_OPEN = 256  # queued requests that are open
_MODEL = """
import time


class Slow:
    def load(self):
        pass

    def predict(self, batch: list[str]) -> list[str]:
        time.sleep(0.005 * len(batch))
        return batch
"""


def write_slow(repository: Path) -> Path:
    """Write the model; returns the repository."""
    folder = repository / "slow" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(_MODEL)
    (repository / "slow" / "model.yaml").write_text("batching: {max_items: 1}\nrows: dependent\n")
    return repository


async def direct(url: str, seconds: float) -> list[float]:
    """Milliseconds that each of `_RATE` direct requests a second took, from when it was due."""
    taken: list[float] = []
    async with client.connect(url, token=token()) as session, asyncio.TaskGroup() as tasks:
        began = time.perf_counter()

        async def ask(due: float) -> None:
            await session.infer("slow", "1", route="direct")
            taken.append((time.perf_counter() - due) * 1000)

        for number in range(int(seconds * _RATE)):
            due = began + number / _RATE
            await asyncio.sleep(due - time.perf_counter())
            tasks.create_task(ask(due))
    return sorted(taken)


async def queued(url: str, until: asyncio.Event) -> int:
    """Keep `_OPEN` queued requests open; returns how many were answered."""
    answered = 0
    async with client.connect(url, token=token("cold")) as session, asyncio.TaskGroup() as tasks:

        async def ask() -> None:
            nonlocal answered
            while not until.is_set():
                await session.infer("slow", "1", route="queue")
                answered += 1

        for _ in range(_OPEN):
            tasks.create_task(ask())
    return answered


async def measure(url: str, seconds: float) -> dict[str, float]:
    """What direct requests take, alone and beside a queue that is never empty."""
    alone = await direct(url, seconds)
    until = asyncio.Event()
    cold = asyncio.create_task(queued(url, until))
    await asyncio.sleep(2)  # the queue fills
    began = time.perf_counter()
    beside = await direct(url, seconds)
    until.set()
    per_second = await cold / (time.perf_counter() - began + 2)
    return {
        "p50 ms alone": at(alone, 0.5), "p99 ms alone": at(alone, 0.99), "p50 ms": at(beside, 0.5),
        "p99 ms": at(beside, 0.99), "queued/s": per_second,
    }  # fmt: skip


def pair(checkout: Path, folder: Path, broker: str, name: str, stack: ExitStack) -> str:
    """Start a checkout's pair by its own environment, with topics of its own; returns the gateway's address."""
    programs = checkout / ".venv" / "bin"
    models = write_slow(folder / "models")
    inference = Child(programs / "podpair-inference", "serve", "--models", models, "--port", "0")
    stack.callback(inference.kill)
    config = folder / "gateway.yaml"
    topics = {"requests": {"topic": f"{name}.requests", "group": name}, "results": {"topic": f"{name}.results"}}
    own = {
        "http": {"port": 0}, "operations": {"port": 0}, "auth": {"secret": SECRET}, "limits": {"in_flight": _OPEN},
        "sessions": {"resume_secret": RESUME_SECRET}, "kafka": {"bootstrap_servers": broker},
        "inference": {"url": inference.wait_for_message("ready")["url"]},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(own | topics))
    gateway = Child(programs / "podpair-gateway", "serve", "--config", config)
    stack.callback(gateway.kill)
    address: str = gateway.wait_for_message("ready")["address"]
    gateway.wait_for_message("inference at")
    return address


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--against", type=Path, help="another checkout (with its environment), measured in turn")
    options = parser.parse_args()
    sides = {"this": ROOT, **({"other": options.against.resolve()} if options.against else {})}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    recording = Recording("hot-and-cold")
    with ExitStack() as stack:
        broker = Broker()
        stack.callback(broker.stop)
        for number in range(options.rounds):
            for name, checkout in sides.items():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                with ExitStack() as started:
                    url = pair(checkout, folder, broker.address, f"{name}-{number}", started)
                    found[name].append(asyncio.run(measure(url, options.seconds)))
        for name, rounds in found.items():
            recording.row({"side": name}, {key: spread([each[key] for each in rounds]) for key in rounds[0]})
    recording.close()


if __name__ == "__main__":
    main()
