"""How cost grows: what a fleet reads of the results topic, what a gateway needs for sessions and partitions, the container for
models, the operator for resources.

Gateways 1, 2 and 4 are real processes on one broker, up to 16 are simulated by the functions that decide who reads what
(`simulated.py`). Read are the bytes of the records' values, in units of what was written: "every pod reads everything" would be
as many units as there are gateways. Sessions and partitions are `fanout.py`'s runs, one burst each.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
from confluent_kafka import Producer

from bench import fanout
from bench.growth_models import models
from bench.growth_resources import resources
from bench.measuring import spread
from bench.recording import Recording
from bench.simulated import fleet, read
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.waiting import until

_VALUE = b'{"progress":%d}'
_FIRST = 100_000  # so that all values are as long
_BATCH = 100  # connections that are made at a time


class Told(NamedTuple):
    """What a fleet of real gateways did."""

    held: list[list[str]]  # the ids of each gateway's sessions
    written: dict[str, int]  # bytes of values, by session
    read: list[int]  # bytes of values, by gateway


def real(
    broker: str, folder: Path, name: str, *, gateways: int, sessions: int, records: int, partitions: int, minted: bool
) -> Told:
    """Start gateways, connect sessions to them in turn, write so many records for each, and wait until all have theirs."""
    config: dict[str, Any] = {
        "kafka": {"bootstrap_servers": broker},
        "requests": {"topic": f"requests.{name}", "group": name, "partitions": partitions},
        "results": {"topic": f"results.{name}", "partitions": partitions},
        "inference": {"url": "http://127.0.0.1:9"},  # nobody asks a model here
    }
    running: list[Gateway] = []
    try:
        while len(running) < gateways:
            running.append(Gateway(folder, config))
        for gateway in running:
            until(lambda gateway=gateway: gateway.metric("request_partitions") == partitions // gateways, timeout=60)
        held, written = asyncio.run(_deliver(running, broker, f"results.{name}", sessions, records, minted=minted))
        return Told(held, written, [round(gateway.metric("results_bytes_read_total")) for gateway in running])
    finally:
        for gateway in running:
            gateway.kill()


async def _deliver(
    running: Sequence[Gateway], broker: str, topic: str, sessions: int, records: int, *, minted: bool
) -> tuple[list[list[str]], dict[str, int]]:
    held: list[list[str]] = [[] for _ in running]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def connect(number: int) -> tuple[str, aiohttp.ClientWebSocketResponse]:
            claims = {} if minted else {"sid": f"given-{number:06d}"}
            headers = {"Authorization": f"Bearer {token(f'u-{number}', **claims)}"}
            socket = await http.ws_connect(running[number % len(running)].ws, headers=headers)
            session: str = json.loads((await socket.receive(timeout=60)).data)["session"]
            held[number % len(running)].append(session)
            return session, socket

        connected: list[tuple[str, aiohttp.ClientWebSocketResponse]] = []
        for start in range(0, sessions, _BATCH):
            connected += await asyncio.gather(*map(connect, range(start, min(start + _BATCH, sessions))))
        producer = Producer(
            {"bootstrap.servers": broker, "partitioner": "murmur2_random", "acks": "all", "linger.ms": 5}
        )
        for number in range(records):
            for session, _ in connected:
                producer.produce(topic, key=session, value=_VALUE % (_FIRST + number))
        await asyncio.to_thread(producer.flush, 30)
        # Who has this one has read all that stands before it in its partition, also for the sessions of others. It counts
        # nothing itself: its value is empty.
        for session, _ in connected:
            producer.produce(topic, key=session, value=b"")
        await asyncio.to_thread(producer.flush, 30)
        for _, socket in connected:
            for number in range(records):
                got = json.loads((await socket.receive(timeout=60)).data)
                if got.get("data") != {"progress": _FIRST + number}:
                    raise RuntimeError(f"a session was sent {got}, not record {number}")
            await socket.receive(timeout=60)
            await socket.close()
    return held, {session: records * len(_VALUE % _FIRST) for session, _ in connected}


def pods(recording: Recording, broker: Broker, options: argparse.Namespace) -> None:
    """What the fleet reads, over what was written."""
    for minted in (True, False):
        ids = "minted by the gateway" if minted else "given by the token"
        for gateways in (1, 2, 4, 8, 16):
            held = fleet(gateways, options.sessions, options.partitions, minted=minted)
            written = {session: 1 for mine in held for session in mine}
            found = read(held, written, options.partitions)
            values: dict[str, Any] = {
                "simulated": sum(found) / len(written),
                "most of one gateway, simulated": max(found) / len(written),
                "every pod reads everything": float(gateways),
            }
            if gateways <= options.most_real:
                with tempfile.TemporaryDirectory() as folder:
                    told = real(
                        broker.address, Path(folder), f"growth.{gateways}.{minted}", gateways=gateways,
                        sessions=options.sessions, records=options.each, partitions=options.partitions, minted=minted,
                    )  # fmt: skip
                values["real"] = sum(told.read) / sum(told.written.values())
            recording.row({"session ids": ids, "gateways": gateways}, values)


def bursts(recording: Recording, broker: Broker, options: argparse.Namespace, by: str, cells: Sequence[int]) -> None:
    """Memory and CPU of one gateway against the number of its `sessions`, or of the topic's `partitions`."""
    lines: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for cell in cells:
                sessions, partitions = (cell, 8) if by == "sessions" else (options.few, cell)
                told = argparse.Namespace(
                    partitions=partitions, keys="round-robin", records=options.records, rates=[2_000], seconds=2,
                    hold=False, deaf=False,
                )  # fmt: skip
                line = fanout.measure("podpair", sessions, told.keys, told, broker, Path(folder), deaf=False)
                lines.setdefault(cell, []).append(line)
    for cell, found in lines.items():
        paces = {"burst": [line["burst"] for line in found], "2,000/s": [line["at_2000_per_s"] for line in found]}
        values: dict[str, Any] = {
            "KB a session": spread([line["kb_per_session"] for line in found]),
            "gateway MB": spread([line["rss_mb"] for line in found]),
            "records/s": spread([one["records_per_s"] for one in paces["burst"]]),
        }
        for pace, ones in paces.items():
            values[f"µs a record, {pace}"] = spread([one["cpu_us_per_record"] for one in ones])
        values["missing"] = sum(one["missing"] for ones in paces.values() for one in ones)
        recording.row({by: cell}, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=480, help="of the whole fleet")
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--each", type=int, default=10, help="records for each session")
    parser.add_argument("--most-real", type=int, default=4, help="gateways that are started at most")
    parser.add_argument("--many", type=fanout._numbers, default=[1_000, 5_000, 10_000], help="sessions of one gateway")
    parser.add_argument("--few", type=int, default=1_000, help="sessions, where partitions grow")
    parser.add_argument("--records", type=int, default=50_000, help="in the burst for those")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quiet", type=float, default=60, help="seconds that the operator is watched when all is made")
    parser.add_argument("--only", default=",".join(_WHAT), help="some of these, with commas")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := {*chosen} - {*_WHAT}:
        parser.error(f"--only: no such measurement: {', '.join(unknown)}; there are {', '.join(_WHAT)}")
    broker = Broker()
    try:
        for what in chosen:
            recording = Recording(f"growth-{what}")
            _WHAT[what](recording, broker, options)
            recording.close()
    finally:
        broker.stop()


_WHAT: dict[str, Callable[[Recording, Broker, argparse.Namespace], None]] = {
    "pods": pods,
    "sessions": lambda recording, broker, options: bursts(recording, broker, options, "sessions", options.many),
    "partitions": lambda recording, broker, options: bursts(recording, broker, options, "partitions", (1, 8, 64, 256)),
    "models": lambda recording, _, options: models(recording, [1, 10, 50, 100], 1_000, options.rounds),
    "resources": lambda recording, broker, options: resources(recording, broker, [1, 10, 50, 100], options.quiet),
}


if __name__ == "__main__":
    main()
