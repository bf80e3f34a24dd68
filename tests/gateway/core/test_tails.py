"""The newest records in memory answer a reconnect exactly as the log would."""

from hypothesis import given
from hypothesis import strategies as st

from harness.record_batches import one_partition
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.tails import PartitionTail


def kept(offset: int, size: int, headers: int = 0) -> Record:
    """A record, as far as a tail looks at it."""
    return offset, b"x" * size, [("name", b"value")] * headers or None


def fill(
    start: int, limit: int, batches: list[list[tuple[int, bytes, int]]]
) -> tuple[PartitionTail, list[tuple[bytes, Record]]]:
    """A tail that was given the batches, and the plain list of all records with their keys."""
    tail = PartitionTail(start, limit)
    everything: list[tuple[bytes, Record]] = []
    offset = start - 1
    for shape in batches:
        batch = []
        for step, key, size in shape:
            offset += step
            batch.append((key, kept(offset, size)))
        everything += batch
        if batch:
            tail.append(one_partition([key for key, _ in batch], [record for _, record in batch]))
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
    assert start <= tail.start <= tail.end == (log[-1][1][0] + 1 if log else start)
    offset = data.draw(st.integers(tail.start, tail.end + 2))
    for session in (b"a", b"b", b"nobody"):
        expected = [record for key, record in log if key == session and record[0] >= offset]
        assert tail.since(session, offset) == expected


@given(streams, st.sampled_from([0, 5_000, 100_000]))
def test_a_smaller_share_keeps_the_newest(batches: list[list[tuple[int, bytes, int]]], limit: int) -> None:
    tail, log = fill(7, 1 << 30, batches)
    tail.shrink(limit)
    assert tail.size <= limit
    assert 7 <= tail.start <= tail.end
    for session in (b"a", b"b", b"c"):
        newest = [record for key, record in log if key == session and record[0] >= tail.start]
        assert tail.since(session, tail.start) == newest


def test_many_small_batches_are_few_pieces_to_look_through() -> None:
    tail, _ = fill(0, 1 << 30, [[(1, b"a", 1)] for _ in range(1000)])
    assert len(tail._chunks) < 10


def test_the_newest_batch_stays_even_if_it_is_more_than_the_limit() -> None:
    tail, log = fill(0, 100, [[(1, b"a", 10)] * 300, [(1, b"a", 10_000)] * 300])
    assert tail.start == 300
    assert tail.since(b"a", 300) == [record for _, record in log[300:]]


def test_what_headers_take_is_counted() -> None:
    """Read, they take more than a small value does: a limit that knew of values only would be passed several times over."""
    most = {}
    for headers in (0, 7):
        tail = PartitionTail(0, 1_000_000)
        for offset in range(0, 10_000, 100):
            tail.append(one_partition([b"a"] * 100, [kept(offset + i, 100, headers) for i in range(100)]))
        assert 500_000 < tail.size <= 1_000_000
        most[headers] = tail.end - tail.start
    assert most[0] > 3 * most[7] > 0
