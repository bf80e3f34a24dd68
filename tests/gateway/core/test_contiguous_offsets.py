"""What is committed while a partition's requests run concurrently: always a prefix, never less than before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.offsets import ContiguousOffsets


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The offsets as they were read (Kafka leaves holes), and the order in which their requests end."""
    steps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=30))
    first = draw(st.integers(0, 1000))
    offsets = [first + sum(steps[:n]) for n in range(len(steps))]
    return offsets, draw(st.permutations(offsets))


@given(histories(), st.data())
def test_only_a_contiguous_prefix_is_committed(history: tuple[list[int], list[int]], data: st.DataObject) -> None:
    offsets, order = history
    tracked = ContiguousOffsets()
    started: list[int] = []
    finished: set[int] = set()
    committed = -1
    waiting = list(offsets)
    for offset in order:
        while offset not in started or (waiting and data.draw(st.booleans())):
            started.append(waiting.pop(0))
            tracked.start(started[-1])
        tracked.finish(offset)
        finished.add(offset)
        taken = tracked.take()
        if taken is not None:
            assert taken > committed
            assert {o for o in started if o < taken} <= finished
            committed = taken
        left = [o for o in started if o not in finished]
        prefix = [o for o in started if not left or o < left[0]]
        assert committed == (prefix[-1] + 1 if prefix else -1)
    assert committed == offsets[-1] + 1
    assert tracked.take() is None


@pytest.mark.parametrize("again", [5, 4])
def test_offsets_come_in_order(again: int) -> None:
    tracked = ContiguousOffsets()
    tracked.start(5)
    with pytest.raises(ValueError, match=f"offset {again} after 5"):
        tracked.start(again)
