"""Which partitioner put a record where it is: the likely cause of a record outside the home partition of its key.

Kafka clients disagree about the partition of a key (docs/producers.md), and a producer with another partitioner than Kafka's own
hits a home by chance only. Of one key several may be the cause; of many only the right one explains all.

Invariant: nothing is claimed that the keys seen don't bear out: an explanation holds for nearly all of them.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from podpair.gateway.core.partitions import murmur2

_SIGN = 0x80000000
_ALL = 0xFFFFFFFF
_MOST = 64  # keys that are remembered
_MOST_WIDTHS = 256
_FEW = 3  # keys from which on a width, or a partition by hand, is taken for the cause
_NEARLY = 0.9  # of the keys


def fnv1a(data: bytes) -> int:
    """Return the unsigned 32-bit FNV-1a hash. Source: Fowler, Noll, Vo: offset basis 0x811C9DC5, prime 0x01000193."""
    h = 0x811C9DC5
    for byte in data:
        h = ((h ^ byte) * 0x01000193) & _ALL
    return h


def _int32(number: float) -> int:
    """Convert a number as JavaScript's bitwise operators do: modulo 2^32, with a sign. Source: ECMA-262, ToInt32."""
    h = int(number) & _ALL
    return h - _ALL - 1 if h & _SIGN else h


def murmur2_in_doubles(data: bytes) -> int:
    """Compute murmur2 as KafkaJS's LegacyPartitioner does: its products are doubles, which lose their low bits."""
    m = float(0x5BD1E995)
    h: float = _int32(0x9747B28C ^ len(data))
    for i in range(0, len(data), 4):
        k = int.from_bytes(data[i : i + 4], "little") * m if len(data) - i < 4 else _signed_word(data, i) * m
        k = (_int32(k) ^ ((int(k) & _ALL) >> 24)) * m
        h = _int32(h * m) ^ _int32(k)
    if rest := len(data) % 4:
        h = (_int32(h) ^ int.from_bytes(data[-rest:], "little")) * m
    h = _int32(_int32(h) ^ ((int(h) & _ALL) >> 13)) * m
    return (_int32(h) ^ ((int(h) & _ALL) >> 15)) & _ALL


def _signed_word(data: bytes, at: int) -> int:
    """Combine three bytes, and the fourth shifted as 32 bits with a sign."""
    return int.from_bytes(data[at : at + 3], "little") + _int32(data[at + 3] << 24)


def _absolute(h: int) -> int:
    """Return the absolute value of 32 bits with a sign."""
    return (_ALL + 1 - h) if h & _SIGN else h


class Partitioner(NamedTuple):
    """A partitioner that isn't Kafka's own."""

    name: str  # and whose it is
    remedy: str  # what makes that client find the home
    partition: Callable[[bytes, int], int]  # of a key, in a topic so wide


PARTITIONERS = (
    Partitioner(
        "CRC-32, librdkafka's default (consistent_random)", "partitioner=murmur2_random",
        lambda key, width: zlib.crc32(key) % width,
    ),
    Partitioner(
        "CRC-32 with an absolute value (Sarama with crc32 as its hash)", "sarama.NewCustomPartitioner with murmur2",
        lambda key, width: _absolute(zlib.crc32(key)) % width,
    ),
    Partitioner(
        "FNV-1a, the default of Sarama and the Hash balancer of kafka-go (librdkafka: fnv1a)",
        "a murmur2 partitioner: sarama.NewCustomPartitioner with murmur2, kafka.Murmur2Balancer, partitioner=murmur2_random",
        lambda key, width: _absolute(fnv1a(key)) % width,
    ),
    Partitioner(
        "FNV-1a with a mask (Sarama's WithAbsFirst, kafka-go's ReferenceHash)",
        "a murmur2 partitioner: sarama.NewCustomPartitioner with murmur2, kafka.Murmur2Balancer",
        lambda key, width: (fnv1a(key) & 0x7FFFFFFF) % width,
    ),
    Partitioner(
        "murmur2 without Kafka's mask, the default of @platformatic/kafka", "partitioner: compatibilityPartitioner",
        lambda key, width: murmur2(key) % width,
    ),
    Partitioner(
        "KafkaJS's LegacyPartitioner", "createPartitioner: Partitioners.DefaultPartitioner",
        lambda key, width: (murmur2_in_doubles(key) & 0x7FFFFFFF) % width,
    ),
    Partitioner(
        "murmur2 with an absolute value instead of Kafka's mask", "the client's partitioner that is compatible with Java's",
        lambda key, width: _absolute(murmur2(key)) % width,
    ),
)  # fmt: skip


class Cause(NamedTuple):
    """Why records are where they are. Of a few keys several partitioners may be it."""

    text: str  # what their producer does
    remedy: str  # what to set there
    explained: int  # keys for which that holds
    keys: int  # that were seen


class MisplacedKeys:
    """Remembers the keys seen lately outside their homes, and tells what explains them."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # key → (partition, width of the topic)

    def add(self, key: bytes, partition: int, width: int) -> None:
        """Add a key that is in `partition` of a topic of `width` partitions, away from its home."""
        self._seen[key] = partition, width
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST:
            self._seen.popitem(last=False)

    def reset(self) -> None:
        """Forget all keys, because the topic is another one."""
        self._seen.clear()

    def cause(self) -> Cause:
        """Return the cause that explains most of the keys, and nearly all of them."""
        keys = len(self._seen)
        found = {
            candidate: sum(candidate.partition(key, width) == at for key, (at, width) in self._seen.items())
            for candidate in PARTITIONERS
        }
        best = max(found.values())
        if best >= max(1, _NEARLY * keys):
            which = [candidate for candidate in PARTITIONERS if found[candidate] == best]
            names, remedies = (" or ".join(names) for names in zip(*((c.name, c.remedy) for c in which), strict=True))
            return Cause(f"its partitioner is {names}", f"set {remedies}", best, keys)
        if keys >= _FEW and (width := self._width()) is not None:
            text = f"it takes the topic for one of {width} partitions"
            return Cause(text, "have it ask for the topic's metadata again", keys, keys)
        if keys >= _FEW and len({at for at, _ in self._seen.values()}) == 1:  # of a topic wider than one
            return Cause("it names the partition itself", "leave the partition to a murmur2 partitioner", keys, keys)
        return Cause(
            "none of the known partitioners puts them there: another width of the topic, a partition given by hand, or one that"
            " doesn't look at the key (round robin)",
            "have it use murmur2 of the key, Kafka's own default", 0, keys,
        )  # fmt: skip

    def _width(self) -> int | None:
        """Return the nearest other width of the topic for which Kafka's own partitioner puts all keys where they are."""

        def widths(width: int) -> Iterator[int]:
            for distance in range(1, _MOST_WIDTHS):
                if width - distance > 1:
                    yield width - distance
                yield width + distance

        hashes = [(murmur2(key) & 0x7FFFFFFF, at) for key, (at, _) in self._seen.items()]
        present = next(iter(self._seen.values()))[1]
        return next((other for other in widths(present) if all(h % other == at for h, at in hashes)), None)


def cause_of(key: bytes, partition: int, width: int) -> Cause:
    """Return the likely cause for a single key."""
    keys = MisplacedKeys()
    keys.add(key, partition, width)
    return keys.cause()
