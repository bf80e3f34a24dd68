"""Leaving well: SIGTERM for a gateway with many sessions, which move to another while records flow. Prints a JSON line.

The clients are podpair.client's, in this process: each is told when to leave, reconnects to the second gateway and resumes. Every
record must come once and in order. `peak_to_mean` is the fullest second's departures against the mean of `drain_seconds`.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import uvloop
from confluent_kafka import Producer

import podpair.client
from harness.checking import OrderChecker
from harness.kafka import Broker
from harness.pair import SECRET, Gateway, token

_TOPIC = "drain.results"
_PATIENCE = 60.0  # seconds for what has not come when the last record is written


class Moves:
    """When each session left its first gateway, and when it was back; seconds since the epoch."""

    def __init__(self) -> None:
        self.left: dict[str, float] = {}
        self.back: dict[str, float] = {}

    def changed(self, name: str, state: str) -> None:
        if state == "reconnecting":
            self.left[name] = time.time()
        elif state == "open" and name in self.left:
            self.back[name] = time.time()

    def away(self) -> list[float]:
        """How long each was without a gateway, ascending."""
        return sorted(self.back[name] - left for name, left in self.left.items() if name in self.back)


async def listen(session: podpair.client.Session, name: str, seen: OrderChecker, total: asyncio.Semaphore) -> None:
    """Take what is pushed."""
    async for push in session.pushes():
        seen.saw(name, push.data)
        total.release()


def configuration(broker: Broker, options: argparse.Namespace) -> dict[str, object]:
    return {
        "kafka": {"bootstrap_servers": broker.address},
        "results": {"topic": _TOPIC},
        "requests": {"topic": "drain.requests", "partitions": 8},
        "limits": {"sessions": 20_000},
        "sessions": {"drain_seconds": options.drain_seconds, "resume_secret": SECRET},
    }


def departures(moves: Moves, told: float, options: argparse.Namespace) -> dict[str, object]:
    """When the clients left after they were told to, and for how long they were away."""
    seconds = Counter(int(moment - told) for moment in moves.left.values())
    away = moves.away()
    return {
        "sessions": options.sessions,
        "drain_seconds": options.drain_seconds,
        "departures": len(moves.left),
        "peak_to_mean": round(max(seconds.values()) / (options.sessions / options.drain_seconds), 2),
        "by_second": [seconds[second] for second in range(max(seconds) + 1)],
        "away_s": {f"p{part}": round(away[len(away) * part // 101], 3) for part in (50, 99, 100)},
    }


async def measure(broker: Broker, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """One run."""
    leaving, staying = (Gateway(folder, configuration(broker, options)) for _ in range(2))
    moves, written, total, checker = Moves(), Counter[str](), asyncio.Semaphore(0), OrderChecker({})
    names, gaps = [f"d-{n:05d}" for n in range(options.sessions)], list[str]()
    acknowledged = {"partitioner": "murmur2_random", "acks": "all", "linger.ms": 5}
    producer = Producer({"bootstrap.servers": broker.address} | acknowledged)
    try:
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
            room = asyncio.Semaphore(100)

            async def begin(name: str) -> podpair.client.Session:
                async with room:
                    return await stack.enter_async_context(
                        podpair.client.connect(
                            [leaving.ws, staying.ws],
                            token=token(name, sid=name),
                            on_state=partial(moves.changed, name),
                            on_gap=lambda gap: gaps.append(f"{name}: {gap}"),
                            http=http,
                        )
                    )

            sessions = await asyncio.gather(*(begin(name) for name in names))
            gc.freeze()  # ten thousand clients in one process: to collect them anew each time would stop all for a second
            gc.disable()
            tasks = [asyncio.create_task(listen(s, n, checker, total)) for n, s in zip(names, sessions, strict=True)]
            told = time.time()
            leaving.process.send_signal(signal.SIGTERM)
            count = 0
            while time.time() < told + options.drain_seconds + 5:
                while count < (time.time() - told) * options.rate:
                    name = names[count % len(names)]
                    producer.produce(_TOPIC, key=f"{name}/{name}", value=str(written[name]))
                    written[name] += 1
                    count += 1
                producer.poll(0)
                await asyncio.sleep(0.005)
            status = await asyncio.to_thread(leaving.process.wait, 60)
            await asyncio.to_thread(producer.flush, 30)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    for _ in range(count):
                        await total.acquire()
            moved = sum(session.gateway == sessions[0].gateway for session in sessions)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        checker.expect(dict(written))
        return departures(moves, told, options) | {
            "on_the_second_gateway": moved,
            "exit_status": status,
            "records": count,
            "faults": len(checker.faults()) + len(gaps),
            "such_as": [*checker.faults(), *gaps][:3],
        }
    finally:
        leaving.kill()
        staying.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--drain-seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=500, help="records/s that flow meanwhile")
    options = parser.parse_args()
    broker = Broker()
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(uvloop.run(measure(broker, Path(folder), options))), flush=True)
    finally:
        broker.stop()


if __name__ == "__main__":
    main()
