"""Channels: one publication → all sessions of a gateway, beside as many records of the sessions' own. A JSON line a round.

All rounds are of one gateway and one crowd, which is subscribed to one channel. In a round come, in turn: a burst of records for
each session; publications as fast as Kafka takes them; one record for each session at a time; and single publications. With the
last two each waits until what came before has reached everybody, so that each delivery is a write of its own. CPU is the
gateway's, a delivery being one event at one client; broker, gateway and load client share this machine.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from confluent_kafka import Producer

from bench.fanout import Load, Writer, _make_topic, phase
from bench.measuring import cpu_seconds, spread
from bench.peers.gateways import Target
from harness.kafka import Broker
from harness.pair import Gateway

CHANNEL = "all"
_FORMS = ("sessions", "channel", "one each", "single")


def start(broker: Broker, topic: str, folder: Path, sessions: int) -> Target:
    """A gateway whose sessions are all subscribed to the channel."""
    config: dict[str, Any] = {
        "kafka": {"bootstrap_servers": broker.address},
        "results": {"topic": topic},
        "requests": {"partitions": 8},
        "limits": {"sessions": 2 * sessions},
        "channels": {"enabled": True, "automatic": [CHANNEL]},
    }
    gateway = Gateway(folder, config)
    return Target(gateway, gateway.ws, "podpair")


def publish(broker: Broker, topic: str, target: Target, load: Load, sessions: int, count: int, *, single: bool) -> Any:
    """Publish so many, and return what was received and at what price. single: one after the other."""
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random", "linger.ms": 1})
    producer.list_topics(topic, timeout=10)
    cpu, missing, twice, received = cpu_seconds(target.child.pid), 0, 0, 0
    began = time.monotonic()
    for n in range(count):
        # A report begins the count anew: single ones are each the first.
        value = b'{"n":%d,"t":%d}' % (0 if single else n, time.time_ns())
        producer.produce(topic, value=value, key=f"channel:{CHANNEL}")
        if single or n == count - 1:
            producer.flush(30)
            seen = load.expect(sessions * (1 if single else count))
            missing, twice = missing + seen["missing"], twice + seen["duplicates"]
            received += seen["received"]
    cpu = cpu_seconds(target.child.pid) - cpu
    return {
        "received": received, "missing": missing, "duplicates": twice,
        "cpu_us_per_record": round(cpu * 1e6 / max(received, 1), 2), "seconds": round(time.monotonic() - began, 2),
        "p99_ms": seen["p99_ms"],
    }  # fmt: skip


def one_each(target: Target, load: Load, own: Writer, sessions: int, count: int) -> dict[str, Any]:
    """So many times one record for each session, one round after the other."""
    rounds = [phase(target, load, own, sessions, 0) for _ in range(count)]
    spent = sum(one["cpu_us_per_record"] * one["received"] for one in rounds)
    found = {name: sum(one[name] for one in rounds) for name in ("received", "missing", "duplicates")}
    return found | {"cpu_us_per_record": round(spent / max(found["received"], 1), 2), "p99_ms": rounds[-1]["p99_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--publications", type=int, default=20, help="of each form, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sessions, count = options.sessions, options.publications
    found: dict[str, list[float]] = {form: [] for form in _FORMS}
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker()
        load = target = None
        try:
            topic = f"channels.{time.monotonic_ns()}"
            _make_topic(broker, topic, 8)
            target = start(broker, topic, Path(folder), sessions)
            load = Load(target, sessions, 0, False)
            print(json.dumps(load.read()), flush=True)
            while target.child.metric("channel_subscriptions") < sessions:
                time.sleep(0.2)
            own = Writer(broker, topic, sessions, "round-robin", target.dialect, 5)
            for _ in range(options.rounds):
                line = {
                    "sessions": phase(target, load, own, sessions * count, 0),
                    "channel": publish(broker, topic, target, load, sessions, count, single=False),
                    "one each": one_each(target, load, own, sessions, count),
                    "single": publish(broker, topic, target, load, sessions, count, single=True),
                }
                print(json.dumps(line), flush=True)
                for form, values in found.items():
                    values.append(line[form]["cpu_us_per_record"])
        finally:
            if load is not None:
                load.kill()
            if target is not None:
                target.child.kill()
            broker.stop()
    print(json.dumps({form: spread(values) for form, values in found.items()}), flush=True)
    ratios = (("channel", "sessions"), ("single", "one each"), ("single", "sessions"))
    print(
        json.dumps({f"{one} / {other}": round(median(found[one]) / median(found[other]), 2) for one, other in ratios})
    )


if __name__ == "__main__":
    main()
