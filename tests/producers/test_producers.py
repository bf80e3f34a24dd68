"""Which producers find a session's home partition: what docs/producers.md says of each, measured against a real broker.

Those whose client this repository has anyway run with `make test`; the others are built first (`make test-producers`).
"""

import os
import random
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness import environments
from harness.kafka import Broker
from harness.machine import require
from harness.processes import ROOT
from podpair.gateway.core.partitions import home_partition

HERE = Path(__file__).parent
slow = pytest.mark.skipif(not os.environ.get("PODPAIR_TEST_PRODUCERS"), reason="make test-producers builds these")


def _keys() -> list[str]:
    """100 each of four kinds, always the same."""
    lot = random.Random(13)
    words = ["zoë", "日本", "łódź", "λ"]
    return [
        key
        for n in range(100)
        for key in (
            f"s-{lot.getrandbits(128):032x}",
            f"user-{n}@example.com",
            str(uuid.UUID(int=lot.getrandbits(128), version=4)),
            f"{lot.choice(words)}:{lot.getrandbits(20)}{'x' * lot.choice([0, 1, 2, 3, 200])}",
        )
    ]


KEYS = _keys()


@pytest.fixture(params=[6, 8])
def topic(request: pytest.FixtureRequest, broker: Broker) -> Iterator[tuple[str, int]]:
    """A topic's name and width."""
    name, width = f"producers-{uuid.uuid4().hex[:8]}", int(request.param)
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_topics([NewTopic(name, width, 1)])[name].result(60)
    yield name, width
    admin.delete_topics([name])[name].result(60)


def at_home(broker: Broker, topic: tuple[str, int]) -> int:
    """How many of the keys' records are in their homes; all have to be there."""
    name, width = topic
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "unused", "enable.partition.eof": True})
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(width)])
    unread = set(range(width))
    found: dict[str, int | None] = {}
    while unread:
        message = consumer.poll(60)
        assert message is not None
        if message.error() is not None:
            unread.discard(message.partition() or 0)
        else:
            found[(message.key() or b"").decode()] = message.partition()
    consumer.close()
    assert found.keys() == set(KEYS)
    return sum(home_partition(key, width) == partition for key, partition in found.items())


def expect(found: int, said: str, width: int) -> None:
    """`all`: every key; `chance`: one in as many as there are partitions; `half`: in a topic that is no power of two."""
    if said == "all" or (said == "half" and width == 8):
        assert found == len(KEYS)
    elif said == "half":
        assert 0.35 * len(KEYS) < found < 0.75 * len(KEYS)
    else:
        assert 0 < found < 0.3 * len(KEYS)


def run(command: list[str | Path], broker: Broker, topic: tuple[str, int], *more: str, cwd: Path | None = None) -> None:
    text = "".join(f"{key}\n" for key in KEYS).encode()
    done = subprocess.run(
        [*map(str, command), broker.address, topic[0], *more], input=text, cwd=cwd, capture_output=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.parametrize(("partitioner", "said"), [(None, "chance"), ("murmur2_random", "all"), ("murmur2", "all")])
def test_confluent_kafka(broker: Broker, topic: tuple[str, int], partitioner: str | None, said: str) -> None:
    more = {} if partitioner is None else {"partitioner": partitioner}
    producer = Producer({"bootstrap.servers": broker.address, **more})
    for key in KEYS:
        producer.produce(topic[0], b"{}", key=key)
    assert producer.flush(60) == 0
    expect(at_home(broker, topic), said, topic[1])


@pytest.mark.parametrize(("partitioner", "said"), [(None, "chance"), ("murmur2_random", "all")])
def test_kcat(broker: Broker, topic: tuple[str, int], partitioner: str | None, said: str) -> None:
    (kcat,) = require("kcat")
    more = [] if partitioner is None else ["-X", f"partitioner={partitioner}"]
    lines = "".join(f"{key}\t{{}}\n" for key in KEYS).encode()
    subprocess.run([kcat, "-P", "-b", broker.address, "-t", topic[0], "-K", "\t", *more], input=lines, check=True)
    expect(at_home(broker, topic), said, topic[1])


@slow
@pytest.mark.parametrize("variant", ["aiokafka", "kafka-python"])
def test_python(broker: Broker, topic: tuple[str, int], variant: str) -> None:
    python = environments.python(HERE / "python" / "requirements.lock")
    run([python, HERE / "python" / "produce.py"], broker, topic, variant)
    expect(at_home(broker, topic), "all", topic[1])


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder in which Node's packages are installed, as the lock pins them."""
    (npm,) = require("npm")
    folder = Path(os.environ.get("PODPAIR_TEST_CACHE", ROOT / ".cache")) / "producers" / "javascript"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "javascript" / name, folder / name)
    subprocess.run([npm, "ci", "--silent", "--ignore-scripts"], cwd=folder, check=True)
    return folder


@slow
@pytest.mark.parametrize(
    ("variant", "said"),
    [("kafkajs", "all"), ("kafkajs-legacy", "chance"), ("platformatic", "half"), ("platformatic-compatibility", "all")],
)
def test_node(broker: Broker, topic: tuple[str, int], packages: Path, variant: str, said: str) -> None:
    (node,) = require("node")
    run([node, HERE / "javascript" / "produce.mjs"], broker, topic, variant, cwd=packages)
    expect(at_home(broker, topic), said, topic[1])


@pytest.fixture(scope="session")
def in_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the modules that go.sum pins."""
    (go,) = require("go")
    program = tmp_path_factory.mktemp("go") / "producers"
    subprocess.run([go, "build", "-o", program, "."], cwd=HERE / "go", check=True)
    return program


@slow
@pytest.mark.parametrize(
    ("variant", "said"),
    [("franz-go", "all"), ("sarama", "chance"), ("sarama-crc", "chance"), ("sarama-murmur2", "all"),
     ("kafka-go", "chance"), ("kafka-go-hash", "chance"), ("kafka-go-murmur2", "all")],
)  # fmt: skip
def test_go(broker: Broker, topic: tuple[str, int], in_go: Path, variant: str, said: str) -> None:
    run([in_go], broker, topic, variant)
    expect(at_home(broker, topic), said, topic[1])
