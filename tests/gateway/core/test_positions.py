"""Where a client that comes back goes on, and what it is told it can't have any more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.positions import Gap, InvalidPosition, Position, Resumption, resume

epochs = st.text("0123456789abcdefXYZ", min_size=1, max_size=32)
partitions, offsets = st.integers(0, 10**9 - 1), st.integers(-1, 10**18 - 1)
positions = st.builds(Position, epochs, partitions, offsets, st.none() | st.tuples(partitions, offsets))


@given(positions)
def test_a_position_reads_back_as_it_was_written(position: Position) -> None:
    assert Position.parse(str(position)) == position
    if position.user is not None:
        assert Position.parse(f"{position.before_user()}{position.user[1]}") == position


@pytest.mark.parametrize(
    "text",
    ["", "e", "e.1", "e.1.", "e..1", ".1.1", "e.1.2.3", "e.-1.2", "e.1.-2", "e.01.2", "e.1.02", "e.1.+2", "e.1.1e3",
     "e.1.2 ", " e.1.2", "e.1.2\n", "e.١.2", "é.1.2", "e.1.٣", "e" * 33 + ".1.2", "e.1234567890.2", "e.1." + "9" * 19,
     "e.1.-0", "e.1.2\x00", "../../etc", "null", "e.u1.2", "e.u1.2.u1.2", "e.1.2.u1", "e.1.2.u1.-2", "e.u1.2.3.4.u1.2",
     "e.1.2.u01.2", "e.1.2.U1.2", "e.1.2.3.4", "u1.2.3.4"],
)  # fmt: skip
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidPosition, match=r"is not <epoch>\.<partition>\.<offset>"):
        Position.parse(text)


def test_the_refusal_quotes_only_so_much() -> None:
    with pytest.raises(InvalidPosition) as refused:
        Position.parse("x" * 100_000)
    assert len(str(refused.value)) < 200


def at(offset: int, epoch: str = "e", partition: int = 3) -> Position:
    return Position(epoch, partition, offset)


# The home partition is 3 of epoch `e`, and holds the offsets 10 ≤ o < 20.
@pytest.mark.parametrize(
    ("position", "start", "gap"),
    [
        (None, 20, None),
        (at(14), 15, None),
        (at(19), 20, None),  # it has everything
        (at(9), 10, None),  # the next one is just still there
        (at(8), 10, Gap(at(8), at(9), "retention")),
        (at(-1), 10, Gap(at(-1), at(9), "retention")),
        (at(20), 20, Gap(at(20), at(19), "ahead")),
        (at(10**17), 20, Gap(at(10**17), at(19), "ahead")),
        (at(14, epoch="f"), 10, Gap(at(14, epoch="f"), at(9), "epoch")),  # all of another topic is new
        (
            at(14, epoch="narrow"),
            15,
            Gap(at(14, epoch="narrow"), at(14), "epoch"),
        ),  # the same topic, with fewer partitions
        (at(19, epoch="narrow"), 20, Gap(at(19, epoch="narrow"), at(19), "epoch")),
        (at(8, epoch="narrow"), 10, Gap(at(8, epoch="narrow"), at(9), "epoch")),
        (at(20, epoch="narrow"), 10, Gap(at(20, epoch="narrow"), at(9), "epoch")),
        (
            at(14, "narrow", partition=4),
            10,
            Gap(at(14, "narrow", partition=4), at(9), "epoch"),
        ),  # its home was another one
        (at(14, partition=4), 20, Gap(at(14, partition=4), at(19), "epoch")),
    ],
)
def test_resume(position: Position | None, start: int, gap: Gap | None) -> None:
    assert resume(position, epoch="e", home=3, low=10, high=20, siblings={"narrow"}) == Resumption(start, gap)


@pytest.mark.parametrize("offset", [-1, 0])
def test_an_empty_partition_has_nothing_to_miss(offset: int) -> None:
    expected = None if offset == -1 else Gap(at(0), at(-1), "ahead")
    assert resume(at(offset), epoch="e", home=3, low=0, high=0) == Resumption(0, expected)


@given(st.integers(-1, 50), st.integers(0, 20), st.integers(0, 20))
def test_nothing_is_skipped_in_silence(offset: int, low: int, length: int) -> None:
    high = low + length
    found = resume(at(offset), epoch="e", home=3, low=low, high=high)
    assert low <= found.start <= high
    assert found.start == offset + 1 or found.gap is not None
