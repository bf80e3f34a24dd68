"""The newest records in memory answer a reconnect exactly as the log would."""

from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.tails import Groups, PartitionTail


class Kept:
    """A record, as far as a tail looks at it."""

    def __init__(self, offset: int, key: bytes, size: int, headers: int = 0) -> None:
        self._offset, self._key, self._size, self._headers = offset, key, size, headers

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key

    def __len__(self) -> int:
        return self._size

    def partition(self) -> int:
        return 0

    def value(self) -> bytes:
        return b"x" * self._size

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return [("name", b"value")] * self._headers or None


def grouped(batch: list[Kept]) -> Groups:
    groups: Groups = {}
    for record in batch:
        groups.setdefault(record.key(), []).append(record)
    return groups


def fill(start: int, limit: int, batches: list[list[tuple[int, bytes, int]]]) -> tuple[PartitionTail, list[Kept]]:
    """A tail that was given the batches, and the plain list of all records."""
    tail = PartitionTail(start, limit)
    everything: list[Kept] = []
    offset = start - 1
    for shape in batches:
        batch = []
        for step, key, size in shape:
            offset += step
            batch.append(Kept(offset, key, size))
        everything += batch
        if batch:
            value_bytes = tail.append(offset + 1, grouped(batch))
            assert value_bytes == sum(map(len, batch))
    return tail, everything


records = st.tuples(st.integers(1, 3), st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([0, 10, 5000]))
small = st.lists(records, max_size=5)
large = st.integers(200, 400).map(lambda n: [(1, b"ab"[i % 2 : i % 2 + 1], 10) for i in range(n)])
streams = st.lists(st.one_of(small, small, large), max_size=12)


@given(st.integers(0, 50), st.sampled_from([1, 20_000, 1 << 30]), streams, st.data())
def test_since_is_the_filter_of_the_log(
    start: int, limit: int, batches: list[list[tuple[int, bytes, int]]], data: st.DataObject
) -> None:
    tail, log = fill(start, limit, batches)
    assert start <= tail.start <= tail.end == (log[-1].offset() + 1 if log else start)
    offset = data.draw(st.integers(tail.start, tail.end + 2))
    for session in (b"a", b"b", b"nobody"):
        expected = [r for r in log if r.key() == session and r.offset() >= offset]
        assert tail.since(session, offset) == expected


@given(streams, st.sampled_from([0, 5_000, 100_000]))
def test_a_smaller_share_keeps_the_newest(batches: list[list[tuple[int, bytes, int]]], limit: int) -> None:
    tail, log = fill(7, 1 << 30, batches)
    tail.shrink(limit)
    assert tail.size <= limit
    assert 7 <= tail.start <= tail.end
    kept = [r for r in log if r.offset() >= tail.start]
    assert [r.offset() for key in (b"a", b"b", b"c") for r in tail.since(key, tail.start)] == [
        r.offset() for key in (b"a", b"b", b"c") for r in kept if r.key() == key
    ]


def test_many_small_batches_are_few_pieces_to_look_through() -> None:
    tail, _ = fill(0, 1 << 30, [[(1, b"a", 1)] for _ in range(1000)])
    assert len(tail._chunks) < 10


def test_the_newest_batch_stays_even_if_it_is_more_than_the_limit() -> None:
    tail, log = fill(0, 100, [[(1, b"a", 10)] * 300, [(1, b"a", 10_000)] * 300])
    assert tail.start == 300
    assert tail.since(b"a", 300) == log[300:]


def test_what_headers_take_is_counted() -> None:
    """Read, they take more than a small value does: a limit that knew of values only would be passed several times over."""
    kept = {}
    for headers in (0, 7):
        tail = PartitionTail(0, 1_000_000)
        for offset in range(0, 10_000, 100):
            batch = [Kept(offset + i, b"a", 100, headers) for i in range(100)]
            tail.append(offset + 100, grouped(batch))
        assert 500_000 < tail.size <= 1_000_000
        kept[headers] = tail.end - tail.start
    assert kept[0] > 3 * kept[7] > 0
