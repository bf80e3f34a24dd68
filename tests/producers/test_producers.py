"""Which producers find a session's home partition: what docs/producers.md says of each, measured against a real broker.

Those whose client this repository has anyway run with `make test`; the others are built first (`make test-producers`).
"""

import hashlib
import logging
import os
import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from harness import environments
from harness.cache import cache
from harness.kafka import LOG_CONFIG, Broker
from harness.machine import fetch, lacks, require
from harness.maven import jars
from podpair.gateway.core.partitioners import MisplacedKeys
from podpair.gateway.core.partitions import home_partition, murmur2

_log = logging.getLogger(__name__)
HERE = Path(__file__).parent
BUILT = cache() / "producers"
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
# Keys whose hash stands at an edge of 32 bits with a sign, where a remainder or an absolute value goes wrong first.
AT_EDGES = {
    "aahd6ju9": 0, "aabuRwLN": 1, "aakjGLIz": 0x7FFFFFFF,
    "aakqLX36": 0x80000000, "aaitlUYu": 0x80000001, "aajiBlPL": 0xFFFFFFFF,
}  # fmt: skip
# Short and long ones, and such as end, behind the last whole word of four bytes, in bytes with their highest bit set.
ODD_KEYS = [*AT_EDGES, "a", "é", "aé", "日", "abcdé", "abcd日", "日" * 33, "x" * 10_000, "é" * 5_001]
EMPTY = ""
# What the gateway says of keys that are not at home.
CRC = "CRC-32, librdkafka's default"
FNV = "FNV-1a, the default of Sarama"
ALL_KEYS = [*KEYS, *ODD_KEYS, EMPTY]


@pytest.fixture(params=[6, 8])
def topic(request: pytest.FixtureRequest, broker: Broker) -> Iterator[tuple[str, int]]:
    """A topic's name and width."""
    name, width = f"producers-{uuid.uuid4().hex[:8]}", int(request.param)
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_topics([NewTopic(name, width, 1)])[name].result(60)
    # A broker tells of partitions a moment before it serves them, and some of the clients try only once.
    places: dict[TopicPartition, OffsetSpec] = {TopicPartition(name, n): OffsetSpec.latest() for n in range(width)}
    deadline = time.monotonic() + 60
    while True:
        try:
            for place in admin.list_offsets(places).values():
                place.result(60)
            break
        except KafkaException:
            assert time.monotonic() < deadline, f"{name} is not served"
    yield name, width
    admin.delete_topics([name])[name].result(60)


def landed(broker: Broker, topic: tuple[str, int]) -> dict[str, int]:
    """The partition of each key's record; all have to be there."""
    name, width = topic
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "unused", "enable.partition.eof": True})
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(width)])
    unread = set(range(width))
    found: dict[str, int] = {}
    while unread:
        message = consumer.poll(60)
        assert message is not None
        if message.error() is not None:
            unread.discard(message.partition() or 0)
        else:
            found[(message.key() or b"").decode()] = message.partition() or 0
    consumer.close()
    assert found.keys() == set(ALL_KEYS)
    return found


def expect(found: dict[str, int], said: str, width: int, blamed: str | None = "") -> None:
    """`all`: every key; `chance`: one in as many as there are partitions; `half`: in a topic that is no power of two.
    `blamed`: the partitioner that the gateway takes for the cause of those that are not at home; None: it knows none.

    What becomes of the empty key is no client's promise, and no session has it.
    """
    at_home = [key for key in found if key != EMPTY and found[key] == home_partition(key, width)]
    ordinary = len(set(KEYS).intersection(at_home))
    _log.info(
        "%d partitions: %d of %d at home; the empty key in %d, where Java's is in %d",
        width, ordinary, len(KEYS), found[EMPTY], home_partition(EMPTY, width),
    )  # fmt: skip
    if said == "all" or (said == "half" and width == 8):
        assert set(ALL_KEYS) - {EMPTY} == set(at_home)
    elif said == "half":
        assert 0.35 * len(KEYS) < ordinary < 0.75 * len(KEYS)
    else:
        assert 0 < ordinary < 0.3 * len(KEYS)
    astray = sorted(found.keys() - set(at_home) - {EMPTY})
    seen = MisplacedKeys()
    for key in astray:
        seen.add(key.encode(), found[key], width)
        assert (blamed or "") in seen.cause().text, "the right one is among those that are named from the first key on"
    if astray:
        wanted = f"its partitioner is {blamed}" if blamed else "none of the known partitioners"
        assert seen.cause().text.startswith(wanted)
        assert " or " not in seen.cause().text or not blamed


def run(command: list[str | Path], broker: Broker, topic: tuple[str, int], *more: str, cwd: Path | None = None) -> str:
    """A program of this folder writes the keys; what it printed."""
    return piped([*command, broker.address, topic[0], *more], "".join(f"{key}\n" for key in ALL_KEYS), cwd)


def piped(command: list[str | Path], text: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], input=text.encode(), cwd=cwd, capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def test_the_keys_are_what_they_are_chosen_for() -> None:
    assert {key: murmur2(key.encode()) for key in AT_EDGES} == AT_EDGES
    assert 0.4 * len(KEYS) < sum(murmur2(key.encode()) > 0x7FFFFFFF for key in KEYS) < 0.6 * len(KEYS)


@pytest.mark.parametrize(
    ("partitioner", "said", "blamed"),
    [(None, "chance", CRC), ("fnv1a", "chance", FNV), ("murmur2_random", "all", ""), ("murmur2", "all", "")],
)
def test_confluent_kafka(
    broker: Broker, topic: tuple[str, int], partitioner: str | None, said: str, blamed: str
) -> None:
    more = {} if partitioner is None else {"partitioner": partitioner}
    producer = Producer({"bootstrap.servers": broker.address, **more})
    for key in ALL_KEYS:
        producer.produce(topic[0], b"{}", key=key)
    assert producer.flush(60) == 0
    expect(landed(broker, topic), said, topic[1], blamed)


@pytest.mark.parametrize(("partitioner", "said"), [(None, "chance"), ("murmur2_random", "all")])
def test_kcat(broker: Broker, topic: tuple[str, int], partitioner: str | None, said: str) -> None:
    (kcat,) = require("kcat")
    more = [] if partitioner is None else ["-X", f"partitioner={partitioner}"]
    lines = "".join(f"{key}\t{{}}\n" for key in ALL_KEYS)
    piped([kcat, "-P", "-b", broker.address, "-t", topic[0], "-K", "\t", *more], lines)
    expect(landed(broker, topic), said, topic[1], CRC if said == "chance" else "")


def test_java(broker: Broker, topic: tuple[str, int]) -> None:
    """The console producer is Java's KafkaProducer behind a reader of lines."""
    (java,) = require("java")
    libraries = jars(HERE / "java" / "pom.xml", "console-producer")
    lines = "".join(f"{key}\t{{}}\n" for key in ALL_KEYS)
    piped([java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={LOG_CONFIG}",
           "-cp", f"{libraries}/*", "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", broker.address,
           "--topic", topic[0], "--property", "parse.key=true", "--property", "key.separator=\t"], lines)  # fmt: skip
    expect(landed(broker, topic), "all", topic[1])


@slow
@pytest.mark.parametrize("variant", ["aiokafka", "kafka-python"])
def test_python(broker: Broker, topic: tuple[str, int], variant: str) -> None:
    python = environments.python(HERE / "python" / "requirements.lock")
    run([python, HERE / "python" / "produce.py"], broker, topic, variant)
    expect(landed(broker, topic), "all", topic[1])


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder in which Node's packages are installed, as the lock pins them; nothing of them has been built."""
    (npm,) = require("npm")
    lock = HERE / "javascript" / "package-lock.json"
    folder = BUILT / f"javascript-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "javascript" / name, folder / name)
        fetch("npm's registry", npm, "ci", "--loglevel=error", "--ignore-scripts", cwd=folder)
        (folder / "complete").touch()
    return folder


@pytest.fixture(scope="session")
def confluent(packages: Path) -> Path:
    """The same, with @confluentinc/kafka-javascript and its librdkafka built from what is in the package.

    What it would download, built, is on no registry. With Node.js's headers beside Node.js nothing else is downloaded.
    """
    node, npm, *_ = require("node", "npm", "make", "c++")
    prefix = Path(node).resolve().parent.parent
    if not (prefix / "include/node/node.h").exists():
        lacks("Node.js's headers (Debian: libnode-dev)")
    if not (packages / "built").exists():
        # Linked dynamically it needs no static libraries of what librdkafka itself is linked with.
        how = {"CKJS_LINKING": "dynamic", "npm_config_nodedir": str(prefix), "npm_config_build_from_source": "true"}
        command = [npm, "rebuild", "@confluentinc/kafka-javascript", "--foreground-scripts"]
        built = subprocess.run(
            command, cwd=packages, env={**os.environ, **how}, capture_output=True, check=False, timeout=3600
        )
        assert built.returncode == 0, built.stderr.decode(errors="replace")[-2000:]
        (packages / "built").touch()
    return packages


@slow
@pytest.mark.parametrize(
    ("variant", "said"),
    [("confluent-kafkajs", "all"), ("confluent-rdkafka", "chance"), ("confluent-rdkafka-murmur2", "all")],
)
def test_confluent_javascript(broker: Broker, topic: tuple[str, int], confluent: Path, variant: str, said: str) -> None:
    (node,) = require("node")
    run([node, HERE / "javascript" / "produce.mjs"], broker, topic, variant, cwd=confluent)
    expect(landed(broker, topic), said, topic[1], CRC if said == "chance" else "")


@slow
@pytest.mark.parametrize(
    ("variant", "said"),
    [("kafkajs", "all"), ("kafkajs-legacy", "chance"), ("platformatic", "half"), ("platformatic-compatibility", "all")],
)
def test_node(broker: Broker, topic: tuple[str, int], packages: Path, variant: str, said: str) -> None:
    (node,) = require("node")
    run([node, HERE / "javascript" / "produce.mjs"], broker, topic, variant, cwd=packages)
    blamed = {"kafkajs-legacy": "KafkaJS's LegacyPartitioner", "platformatic": "murmur2 without Kafka's mask"}
    expect(landed(broker, topic), said, topic[1], blamed.get(variant, ""))


@pytest.fixture(scope="session")
def in_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the modules that go.sum pins."""
    (go,) = require("go")
    fetch("Go's module proxy", go, "mod", "download", cwd=HERE / "go")
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
    blamed = {"sarama": FNV, "kafka-go-hash": FNV, "sarama-crc": CRC, "kafka-go": None}
    expect(landed(broker, topic), said, topic[1], blamed.get(variant, ""))


@pytest.fixture(scope="session")
def in_rust() -> Path:
    """The program, built from the crates that Cargo.lock pins, and with the librdkafka that the rdkafka crate brings."""
    cargo, *_ = require("cargo", "make", "c++")
    fetch("crates.io", cargo, "fetch", "--locked", cwd=HERE / "rust")
    command = [cargo, "build", "--quiet", "--locked", "--offline", "--target-dir", str(BUILT / "rust")]
    subprocess.run(command, cwd=HERE / "rust", check=True)
    return BUILT / "rust" / "debug" / "producers"


@slow
@pytest.mark.parametrize(("variant", "said"), [("rdkafka", "chance"), ("rdkafka-murmur2", "all")])
def test_rust(broker: Broker, topic: tuple[str, int], in_rust: Path, variant: str, said: str) -> None:
    run([in_rust], broker, topic, variant)
    expect(landed(broker, topic), said, topic[1], CRC if said == "chance" else "")


@slow
def test_rust_without_librdkafka(broker: Broker, topic: tuple[str, int], in_rust: Path) -> None:
    """The kafka crate chooses by a hash of its own, and then writes in a way that brokers since Kafka 4.0 refuse."""
    chosen = dict(line.split("\t")[::-1] for line in run([in_rust], broker, topic, "kafka-chooses").splitlines())
    expect({key: int(partition) for key, partition in chosen.items()}, "chance", topic[1], None)
