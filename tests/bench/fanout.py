"""Fan-out: records on a real broker → the sessions of one gateway. Prints one JSON line.

A burst written as fast as Kafka takes it, then a steady rate for the latency. Broker, gateway and load client share this
machine; the client's CPU is in the line, so that one can see whether it was the bottleneck.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from confluent_kafka import Producer

from harness.kafka import Broker
from harness.pair import SECRET, Gateway

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss_bytes(pid: int) -> int:
    """Resident memory (proc(5), statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


class Load:
    """The client process."""

    def __init__(self, url: str, sessions: int) -> None:
        command = [sys.executable, Path(__file__).with_name("listeners.py"), "--url", url, "--sessions", str(sessions)]
        self.process = subprocess.Popen(
            [*command, "--secret", SECRET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def expect(self, records: int, patience: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"expect": records, "patience": patience}) + "\n")
        self.process.stdin.flush()
        return self.read()


def produce(producer: Producer, topic: str, records: int, sessions: int, rate: float) -> float:
    """Write records round robin to the sessions, `rate` a second (0: as fast as it goes); returns when it began."""
    began = time.time()
    keys = [f"b-{i:06d}" for i in range(sessions)]
    for i in range(records):
        if rate and i % 2 == 0:
            ahead = began + i / rate - time.time()
            if ahead > 0:
                time.sleep(ahead)
        value = b'{"s":%d,"n":%d,"t":%d}' % (i % sessions, i // sessions, time.time_ns())
        while True:
            try:
                producer.produce(topic, value=value, key=keys[i % sessions])
                break
            except BufferError:
                producer.poll(0.01)
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush(30)
    return began


def measure(options: argparse.Namespace, broker: Broker, folder: Path) -> dict[str, Any]:
    """One run against one gateway."""
    config: dict[str, Any] = {
        "kafka": {"bootstrap_servers": broker.address},
        "results": {"topic": f"fanout.{time.monotonic_ns()}", "partitions": options.partitions},
        "requests": {"partitions": options.partitions},
        "limits": {"sessions": options.sessions + 10},
    }
    gateway = Gateway(folder, config)
    try:
        before = rss_bytes(gateway.pid)
        load = Load(gateway.ws, options.sessions)
        connected = load.read()
        with_sessions = rss_bytes(gateway.pid)
        producer = Producer(
            {"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "acks": "all", "linger.ms": 5,
             "queue.buffering.max.messages": 1_000_000}
        )  # fmt: skip
        topic = str(config["results"]["topic"])
        producer.list_topics(topic, timeout=10)
        cpu = cpu_seconds(gateway.pid)
        began = produce(producer, topic, options.records, options.sessions, 0)
        burst = load.expect(options.records, 60)
        cpu = cpu_seconds(gateway.pid) - cpu
        line: dict[str, Any] = {"sessions": options.sessions, "records": options.records}
        line |= {
            name: burst[name] for name in ("received", "missing", "duplicates", "out_of_order", "p50_ms", "p99_ms")
        }
        line["records_per_s"] = round(burst["received"] / max(burst["last"] - began, 1e-9)) if burst["last"] else None
        line["cpu_us_per_record"] = round(cpu * 1e6 / max(burst["received"], 1), 2)
        line["client_cpu_s"] = burst["client_cpu_s"]
        if options.rate:
            producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "linger.ms": 1})
            producer.list_topics(topic, timeout=10)
            records = int(options.rate * options.seconds)
            # The broker's own code is compiled while it runs: the first seconds of a pace are not its latency.
            produce(producer, topic, records, options.sessions, options.rate)
            load.expect(records, 30)
            cpu = cpu_seconds(gateway.pid)
            produce(producer, topic, records, options.sessions, options.rate)
            steady = load.expect(records, 30)
            cpu = cpu_seconds(gateway.pid) - cpu
            line[f"at_{options.rate:.0f}_per_s"] = {
                name: steady[name] for name in ("received", "missing", "duplicates", "out_of_order", "p50_ms", "p99_ms")
            } | {"cpu_us_per_record": round(cpu * 1e6 / max(steady["received"], 1), 2)}
        line["rss_mb"] = round(rss_bytes(gateway.pid) / 1e6, 1)
        line["kb_per_session"] = round((with_sessions - before) / options.sessions / 1000, 1)
        line["connect_seconds"] = connected["seconds"]
        if options.hold:
            print(json.dumps(line), flush=True)
            input(f"gateway pid {gateway.pid}; Enter to end")
        load.process.kill()
        load.process.wait()
        return line
    finally:
        gateway.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=5_000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2_000, help="records/s of the second phase; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--hold", action="store_true", help="wait before ending, for a profiler")
    options = parser.parse_args()
    broker = Broker()
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options, broker, Path(folder))))
    finally:
        broker.stop()


if __name__ == "__main__":
    main()
