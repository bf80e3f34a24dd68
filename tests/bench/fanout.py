"""Fan-out: records on a real broker → the sessions of one gateway. Prints a JSON line a run.

Each run starts a gateway of its own and lets its sessions connect; then comes a burst written as fast as Kafka takes it, then
steady rates for the latency. Gateways, sizes and repetitions are interleaved. Broker, gateway and load client share this
machine; the client's CPU is in the line, so that one can see whether it was the bottleneck.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from bench.measuring import cpu_seconds, rss_bytes, spread
from bench.peers.building import CannotBuild
from bench.peers.gateways import GATEWAYS, Target, podpair
from bench.recording import Recording
from harness.kafka import Broker
from harness.pair import SECRET
from harness.processes import Conversation

PATIENCE = 5.0  # seconds without a record after which the rest is counted as missing
_KEYS = ("round-robin", "random", "hot", "large")
_LARGE = 16_384  # bytes of the records that one session in a hundred gets with `--keys large`
_REPORTED = ("received", "missing", "duplicates", "out_of_order", "p50_ms", "p99_ms", "client_cpu_s")


class Load(Conversation):
    """The client process."""

    def __init__(self, target: Target, sessions: int, apart: int, deaf: bool) -> None:
        command = [sys.executable, Path(__file__).with_name("listeners.py"), "--url", target.url, "--secret", SECRET]
        command += ["--sessions", str(sessions), "--dialect", target.dialect]
        command += ["--apart", str(apart), *(["--deaf"] if deaf else [])]
        super().__init__(*command)

    def expect(self, records: int) -> Any:
        return self.ask({"expect": records, "patience": PATIENCE})


def apart(keys: str, sessions: int) -> int:
    """How many sessions, the first, get large records, and are not counted."""
    return sessions // 100 if keys == "large" else 0


def sequence(keys: str, records: int, sessions: int) -> Iterator[int]:
    """Whose record is next: each in turn, or at random; one record in ten is for one session (`hot`), or for those `apart`."""
    chosen = random.Random(7)
    few = apart(keys, sessions)
    for i in range(records):
        if keys == "hot" and i % 10 == 0:
            yield 0
        elif few and i % 10 == 0:
            yield i // 10 % few
        elif few:
            yield few + (i - i // 10) % (sessions - few)
        else:
            yield i % sessions if keys == "round-robin" else chosen.randrange(sessions)


class Writer:
    """Writes records as the dialect wants them, with their session, number and time in them."""

    def __init__(self, broker: Broker, topic: str, sessions: int, keys: str, dialect: str, linger: int) -> None:
        self._topic, self._sessions, self._keys = topic, sessions, keys
        self._apart = apart(keys, sessions)
        self._envelope = b"%b"
        if dialect == "socketio":
            self._envelope = b'{"method":"emit","event":"push","data":%b,"namespace":"/","room":"%b","host_id":"bench"}'
        self._socketio = dialect == "socketio"
        self._name = "u{0}/b-{0:06d}" if dialect == "podpair" else "b-{0:06d}"
        self._producer = Producer(
            {"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "acks": "all", "linger.ms": linger,
             "queue.buffering.max.messages": 1_000_000}
        )  # fmt: skip
        self._producer.list_topics(topic, timeout=10)

    def write(self, records: int, rate: float) -> float:
        """Write so many, `rate` a second (0: as fast as it goes); returns when it began."""
        producer, sessions = self._producer, self._sessions
        names = [self._name.format(i) for i in range(sessions)]
        pad = b" " * _LARGE  # JSON does not mind
        numbers = [0] * sessions
        began = time.time()
        for i, session in enumerate(sequence(self._keys, records, sessions)):
            if rate and i % 2 == 0:
                ahead = began + i / rate - time.time()
                if ahead > 0:
                    time.sleep(ahead)
            value = b'{"s":%d,"n":%d,"t":%d}' % (session, numbers[session], time.time_ns())
            numbers[session] += 1
            if session < self._apart:
                value += pad
            if self._socketio:
                value = self._envelope % (value, names[session].encode())
            while True:
                try:
                    producer.produce(self._topic, value=value, key=names[session])
                    break
                except BufferError:
                    producer.poll(0.01)
            if i % 1000 == 0:
                producer.poll(0)
        producer.flush(30)
        return began

    def counted(self, records: int) -> int:
        """How many of so many are for sessions that are counted."""
        return sum(session >= self._apart for session in sequence(self._keys, records, self._sessions))


def phase(target: Target, load: Load, writer: Writer, records: int, rate: float) -> dict[str, Any]:
    """One phase of a run: what was received, how quickly, and at what price."""
    cpu = cpu_seconds(target.child.pid)
    began = writer.write(records, rate)
    seen = load.expect(writer.counted(records))
    cpu = cpu_seconds(target.child.pid) - cpu
    line = {name: seen[name] for name in _REPORTED}
    received = max(seen["received"], 1)
    return line | {
        "records_per_s": round(seen["received"] / max(seen["last"] - began, 1e-9)) if seen["last"] else 0,
        "cpu_us_per_record": round(cpu * 1e6 / received, 2),
    }


def _make_topic(broker: Broker, topic: str, partitions: int) -> None:
    """Make it, and wait until each partition is led: not every gateway asks twice."""
    admin = AdminClient({"bootstrap.servers": broker.address})
    for made in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        made.result(20)
    places = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in range(partitions)}
    end = time.monotonic() + 20
    while True:
        try:
            for asked in admin.list_offsets(places, request_timeout=10).values():
                asked.result()
            return
        except KafkaException:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def measure(
    name: str, sessions: int, keys: str, options: argparse.Namespace, broker: Broker, folder: Path, deaf: bool
) -> dict[str, Any]:
    """One run against one gateway; `deaf`: the sessions that get large records read none of them. Raises CannotBuild."""
    topic = f"fanout.{time.monotonic_ns()}"
    _make_topic(broker, topic, options.partitions)
    target = GATEWAYS[name](broker.address, topic, folder)
    load = None
    try:
        before = rss_bytes(target.child.pid)
        load = Load(target, sessions, apart(keys, sessions), deaf)
        connected = load.read()
        line: dict[str, Any] = {"gateway": name, "sessions": sessions, "keys": keys}
        if options.deaf:
            line["deaf"] = apart(keys, sessions) if deaf else 0
        line["kb_per_session"] = round((rss_bytes(target.child.pid) - before) / sessions / 1000, 1)
        line["connect_seconds"] = connected["seconds"]
        burst = Writer(broker, topic, sessions, keys, target.dialect, 5)
        line["burst"] = phase(target, load, burst, options.records, 0)
        steady = Writer(broker, topic, sessions, keys, target.dialect, 1)
        for rate in options.rates:
            records = int(rate * options.seconds)
            # The broker's own code is compiled while it runs: the first seconds of a pace are not its latency.
            phase(target, load, steady, records, rate)
            line[f"at_{rate:.0f}_per_s"] = phase(target, load, steady, records, rate)
        line["rss_mb"] = round(rss_bytes(target.child.pid) / 1e6, 1)
        if options.hold:
            print(json.dumps(line), flush=True)
            input(f"gateway pid {target.child.pid}; Enter to end")
        return line
    finally:
        if load is not None:
            load.kill()
        target.child.kill()


def _values(phases: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
    """The columns of a phase, from all its runs."""
    names = {
        "received": "received", "missing": "missing", "records_per_s": "records/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms",
        "cpu_us_per_record": "CPU µs a record", "client_cpu_s": "client's CPU s",
    }  # fmt: skip
    found = {title: [phase[name] for phase in phases if phase[name] is not None] for name, title in names.items()}
    return {title: spread(values) for title, values in found.items() if values} | more


def record(lines: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Keep the lines of all runs for the report: a row for each gateway, number of sessions and pace."""
    by_keys = len(options.keys) > 1
    recording = Recording("fanout-deaf" if options.deaf else "fanout-keys" if by_keys else "fanout")
    rates = [("burst", "burst"), *((f"at_{rate:.0f}_per_s", f"{rate:,.0f}/s") for rate in options.rates)]
    made: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        if "left_out" in line:
            recording.left_out({"gateway": line["gateway"]}, line["left_out"])
        else:
            made.setdefault((line["sessions"], line["keys"], line["gateway"], line.get("deaf")), []).append(line)
    for (sessions, keys, gateway, deaf), runs in made.items():
        about = {"sessions": sessions, **({"keys": keys} if by_keys else {})}
        about |= {**({"read nothing": deaf} if deaf is not None else {}), "gateway": gateway}
        for name, pace in rates:
            of_session = {"KB a session": spread([run["kb_per_session"] for run in runs])} if name == "burst" else {}
            memory = {"MB afterwards": spread([run["rss_mb"] for run in runs])} if deaf is not None else {}
            recording.row(about | {"pace": pace}, _values([run[name] for run in runs], of_session | memory))
    recording.close()


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", default="podpair", help=f"with semicolons, or `all`: {'; '.join(GATEWAYS)}")
    parser.add_argument("--sessions", type=_numbers, default=[5_000])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--keys", type=_words, default=["round-robin"], help=f"with commas: {', '.join(_KEYS)}")
    parser.add_argument(
        "--deaf", action="store_true", help="each run once more, where the sessions of `--keys large` read nothing"
    )
    parser.add_argument("--rates", type=_numbers, default=[2_000], help="records/s of the steady phases")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--hold", action="store_true", help="wait before ending, for a profiler")
    parser.add_argument("--against", type=Path, help="another checkout, whose gateway is measured in turn, as `other`")
    options = parser.parse_args()
    if options.against is not None:
        GATEWAYS["other"] = partial(podpair, sources=options.against.resolve() / "gateway" / "src")
        options.gateways += ";other"
    names = list(GATEWAYS) if options.gateways == "all" else [name.strip() for name in options.gateways.split(";")]
    if options.deaf and options.keys != ["large"]:
        parser.error("--deaf goes with --keys large")
    if unknown := [keys for keys in options.keys if keys not in _KEYS]:
        parser.error(f"no such keys: {', '.join(unknown)}; there are {', '.join(_KEYS)}")
    if unknown := [name for name in names if name not in GATEWAYS]:
        parser.error(f"no such gateway: {'; '.join(unknown)}; there are {'; '.join(GATEWAYS)}")
    broker = Broker()
    try:
        with tempfile.TemporaryDirectory() as folder:
            deafness = (False, True)[: 1 + options.deaf]
            runs = list(itertools.product(options.sessions, options.keys, names, deafness))
            lines = []
            if len(runs) > 1:  # the first warms the broker up
                measure("podpair", *runs[0][:2], options, broker, Path(folder), deaf=False)
            for sessions, keys, name, deaf in runs * options.repeats:
                try:
                    line = measure(name, sessions, keys, options, broker, Path(folder), deaf)
                except CannotBuild as error:
                    line = {"gateway": name, "left_out": str(error)}
                print(json.dumps(line), flush=True)
                lines.append(line)
            if not options.hold:
                record(lines, options)
    finally:
        broker.stop()


if __name__ == "__main__":
    main()
