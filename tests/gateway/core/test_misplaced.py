"""Records of keys that nobody here has: which are misplaced, who counts them, and what is said of their producer."""

import logging
import zlib
from typing import Any

import pytest

from podpair.gateway.core.cloud_events import Headers
from podpair.gateway.core.partitioners import PARTITIONERS, MisplacedKeys, fnv1a
from podpair.gateway.core.partitions import HomePartitions, home_of_key
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.record_headers import takeover_headers
from podpair.gateway.kafka.unread_results import Sampled
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions import misplaced_records
from podpair.gateway.sessions.misplaced_records import MisplacedRecords

WIDTH = 8
KEYS = [f"s-{number:016x}".encode() for number in range(40)]
USER = b"user:alice%40example.com"


def stored(offset: int = 0, headers: Headers | None = None) -> Record:
    """A record, as the fan-out has it."""
    return offset, b"", headers


class Case:
    def __init__(self, responsible_for: Any = lambda _: True) -> None:
        self.now = 1000.0
        self.homes = HomePartitions("e", WIDTH)
        self.metrics = Metrics()
        self.misplaced = MisplacedRecords("results", self.metrics, self.homes, responsible_for, lambda: self.now)

    def counted(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value(
            "podpair_gateway_results_records_misplaced_total", {"outcome": outcome}
        ) or 0  # fmt: skip


@pytest.fixture
def case() -> Case:
    return Case()


def away(key: bytes) -> int:
    """Not its home."""
    return (home_of_key(key, WIDTH) + 1) % WIDTH


@pytest.mark.parametrize("key", [*KEYS[:3], USER, b"", b"\xff\xfe"])
def test_at_home_it_is_right_whoever_is_away(case: Case, key: bytes) -> None:
    assert case.misplaced.handle_unclaimed(home_of_key(key, WIDTH), key, [stored()]) == 0
    assert case.misplaced.known[key] == home_of_key(key, WIDTH)
    assert case.misplaced.handle_unclaimed(away(key), key, [stored(), stored(1)]) == 2
    assert case.counted("unclaimed") == 2


def test_what_is_in_a_partition_of_another_gateway_is_counted_there() -> None:
    case = Case(lambda partition: partition == 3)
    for key in KEYS:
        case.misplaced.handle_unclaimed(away(key), key, [stored()])
    assert case.counted("unclaimed") == sum(away(key) == 3 for key in KEYS) > 0
    case.misplaced.handle_unclaimed(2, None, [stored()])
    assert case.counted("keyless") == 0
    case.misplaced.handle_unclaimed(3, None, [stored(), stored()])
    assert case.counted("keyless") == 2


def test_announcements_of_gateways_are_none(case: Case) -> None:
    headers = takeover_headers(connection="1.a", session="s", source="gw", now=0.0)
    assert case.misplaced.handle_unclaimed(away(KEYS[0]), KEYS[0], [stored(0, headers)]) == 0
    assert case.misplaced.handle_unclaimed(away(KEYS[0]), KEYS[0], [stored(0, headers), stored(1)]) == 1


def test_new_keys_are_bounded_in_time_and_number(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(misplaced_records, "_MOST_KEYS", 300)
    for number in range(1000):
        key = b"%d" % number
        case.misplaced.handle_unclaimed(away(key), key, [stored()])
    assert case.counted("unclaimed") == len(case.misplaced.known) == 200
    case.now += 1
    for number in range(1000, 2000):
        key = b"%d" % number
        case.misplaced.handle_unclaimed(away(key), key, [stored()])
    assert case.counted("unclaimed") == 400
    assert len(case.misplaced.known) <= 300
    huge = bytes(1 << 20)
    case.now += 1
    assert case.misplaced.handle_unclaimed(away(huge), huge, [stored()]) == 0


def test_producers_have_a_while_to_learn_that_the_topic_was_widened(case: Case) -> None:
    key = next(key for key in KEYS if home_of_key(key, WIDTH) != home_of_key(key, 2 * WIDTH))
    before = home_of_key(key, WIDTH)
    assert case.misplaced.handle_unclaimed(before, key, [stored()]) == 0
    case.homes.change("f", 2 * WIDTH, siblings={"e"})
    other = next(p for p in range(2 * WIDTH) if p not in (before, home_of_key(key, 2 * WIDTH)))
    assert case.misplaced.handle_unclaimed(other, key, [stored()]) == 1
    assert case.misplaced.handle_unclaimed(before, key, [stored()]) == 0
    case.now += 601
    assert case.misplaced.handle_unclaimed(before, key, [stored()]) == 1
    case.homes.change("g", WIDTH)  # made again
    assert case.misplaced.handle_unclaimed(before, key, [stored()]) == 0
    assert case.misplaced.handle_unclaimed(home_of_key(key, 2 * WIDTH), key, [stored()]) == 1


def test_samples_of_a_partition_that_is_not_read(case: Case) -> None:
    here, other = KEYS[0], next(key for key in KEYS[1:] if away(key) == away(KEYS[0]))
    at_home = next(key for key in KEYS if home_of_key(key, WIDTH) == away(here))
    handle_sampled = [Sampled(n, key, None) for n, key in enumerate([here, at_home, other, None, other])]
    assert case.misplaced.handle_sampled(away(here), handle_sampled, {here}) == 4
    assert [case.counted(outcome) for outcome in ("dropped", "unclaimed", "keyless")] == [1, 2, 1]


def test_it_is_said_once_a_minute_with_the_likely_cause(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    def write(keys: list[bytes]) -> None:
        for number, key in enumerate(keys):
            partition = zlib.crc32(key) % WIDTH
            case.misplaced.handle_unclaimed(partition, key, [stored(number)])

    write(KEYS)
    wrong = sum(zlib.crc32(key) % WIDTH != home_of_key(key, WIDTH) for key in KEYS)
    assert len(caplog.messages) == 1
    case.now += 60
    write(KEYS)
    assert len(caplog.messages) == 2
    told = caplog.messages[1]
    assert told.startswith(f"{wrong} records of results are not in the home partition of their key")
    assert (
        f"its partitioner is CRC-32, librdkafka's default (consistent_random) (true of {wrong} of {wrong} keys)" in told
    )
    assert "set partitioner=murmur2_random (docs/producers.md)" in told
    case.misplaced.handle_unclaimed(5, None, [stored(7)])
    assert caplog.messages[2].startswith("1 records of results have no key, and so belong to nobody: results[5]@7")


@pytest.mark.parametrize("partitioner", PARTITIONERS, ids=[p.name for p in PARTITIONERS])
@pytest.mark.parametrize("width", [3, 6, 12, 50])
def test_each_partitioner_is_told_from_the_others(partitioner: Any, width: int) -> None:
    seen = MisplacedKeys()
    for key in [b"%d" % number for number in range(2000)]:
        partition = partitioner.partition(key, width)
        if partition != home_of_key(key, width):
            seen.add(key, partition, width)
    assert seen.cause().text.startswith(f"its partitioner is {partitioner.name}")
    assert partitioner.remedy in seen.cause().remedy
    assert seen.cause().explained == seen.cause().keys


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        (lambda key, n: home_of_key(key, 6), "it takes the topic for one of 6 partitions"),
        (lambda key, n: home_of_key(key, 24), "it takes the topic for one of 24 partitions"),
        (lambda key, n: 5, "it names the partition itself"),
        (lambda key, n: n % 12, "none of the known partitioners puts them there"),
        (lambda key, n: fnv1a(key + b"!") % 12, "none of the known partitioners puts them there"),
    ],
)
def test_other_causes(partition: Any, said: str) -> None:
    seen = MisplacedKeys()
    for number, key in enumerate(KEYS):
        where = partition(key, number)
        if where != home_of_key(key, 12):
            seen.add(key, where, 12)
    assert seen.cause().text.startswith(said)


def test_fnv1a() -> None:
    """Vectors of the hash's authors."""
    assert [fnv1a(text) for text in (b"", b"a", b"foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]
