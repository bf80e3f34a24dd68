"""A partition's records that did not come: until it is known why, no commit goes beyond them."""

import random

import pytest

from podpair.gateway.core.offsets import Committed, committed_of
from podpair.gateway.worker.partition import PartitionState


def received(partition: PartitionState, offset: int, *, end: bool = True) -> None:
    """Read the record at an offset, and finish it."""
    partition.skip_to(offset)
    partition.last = offset
    if partition.offsets.start(offset) and end:
        partition.offsets.finish(offset)


def committed(partition: PartitionState) -> Committed:
    commit = partition.offsets.with_finished(())
    return committed_of(commit.offset, commit.metadata)


def test_who_has_the_partition_next_finds_the_same_hole() -> None:
    first = PartitionState(0, Committed(), "")
    for offset in (0, 1, 5, 6):
        received(first, offset)
    assert first.skips == [2]
    assert committed(first) == Committed(2, frozenset({5, 6}))
    assert first.lag == 0
    second = PartitionState(0, committed(first), "")
    received(second, 5)
    assert second.skips == [2]
    assert second.settle([2])
    assert committed(second) == Committed(7), "6 was finished by the first"
    received(second, 6)
    assert committed(second) == Committed(7)


def test_what_comes_while_the_hole_is_looked_at_is_not_settled_with_it() -> None:
    partition = PartitionState(0, Committed(), "")
    received(partition, 3)
    asked = tuple(partition.skips)
    received(partition, 9)
    assert partition.settle(asked)
    assert not partition.settle(asked)
    assert partition.skips == [4]
    assert committed(partition).offset == 4


def test_nothing_is_skipped_by_records_that_follow_each_other() -> None:
    partition = PartitionState(0, Committed(7), "")
    assert [partition.skip_to(7), partition.skip_to(6)] == [False, False]
    assert partition.skips == []


@pytest.mark.parametrize("seed", range(50))
def test_no_commit_is_beyond_a_hole_or_an_unfinished_request(seed: int) -> None:
    rng = random.Random(seed)
    partition = PartitionState(0, Committed(), "")
    open_requests: set[int] = set()
    finished: set[int] = set()
    for _ in range(200):
        kind = rng.choice(("read", "read", "finish", "settle"))
        if kind == "read":
            offset = partition.next_offset + (rng.randrange(1, 5) if rng.random() < 0.2 else 0)
            received(partition, offset, end=False)
            open_requests.add(offset)
        elif kind == "finish" and open_requests:
            offset = rng.choice(sorted(open_requests))
            open_requests.remove(offset)
            finished.add(offset)
            partition.offsets.finish(offset)
        elif kind == "settle" and partition.skips:
            partition.settle(rng.sample(partition.skips, rng.randrange(1, len(partition.skips) + 1)))
        said = committed(partition)
        held = open_requests | set(partition.skips)
        assert said.offset <= min(held, default=partition.next_offset)
        assert finished <= set(range(said.offset)) | said.finished
        assert not held & said.finished
        partition.end = partition.next_offset
        assert partition.lag == len(open_requests)
