"""Positions in the results topic, and what a client that comes back with one can still have.

A position is (topic epoch, partition, offset). The epoch names one incarnation of the topic: offsets of a topic that was
deleted and made anew, or whose partitions were grown (which moves homes), mean nothing in the next one.
"""

import re
from collections.abc import Container
from typing import NamedTuple

_FORMAT = re.compile(r"([0-9a-zA-Z]{1,32})\.(0|[1-9][0-9]{0,8})\.(-1|0|[1-9][0-9]{0,17})", re.ASCII)


class InvalidPosition(ValueError):
    """A text that is not `<epoch>.<partition>.<offset>`."""


class Position(NamedTuple):
    """The place of the last record that a client has processed; offset -1 is before the first one."""

    epoch: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.partition}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read what `str` wrote. Raises InvalidPosition."""
        found = _FORMAT.fullmatch(text)
        if found is None:
            raise InvalidPosition(f"position {text[:64]!r} is not <epoch>.<partition>.<offset>")
        return cls(found[1], int(found[2]), int(found[3]))


class Gap(NamedTuple):
    """Events after `start` up to and including `end` can't be had any more. None where that is not known."""

    start: Position | None
    end: Position | None
    reason: str


class Resumption(NamedTuple):
    """Read the home partition from offset `start` (included) on, after telling the client about `gap`."""

    start: int
    gap: Gap | None


def resume(
    position: Position | None, *, epoch: str, home: int, low: int, high: int, siblings: Container[str] = ()
) -> Resumption:
    """Where a session that was at `position` goes on, in a partition that holds the offsets low ≤ o < high.

    Without a position it goes on from now. What can't be had becomes a gap, never silence. `siblings` are epochs of the same
    topic with other numbers of partitions: offsets mean in them what they mean here. All that is in the home partition of
    a topic that was made again, or became the session's home when the topic was widened, is new to the session.
    """
    if position is None:
        return Resumption(high, None)
    newest = Position(epoch, home, high - 1)
    if position.epoch != epoch:
        known = position.epoch in siblings and position.partition == home and low <= position.offset + 1 <= high
        start = position.offset + 1 if known else low
        return Resumption(start, Gap(position, Position(epoch, home, start - 1), "epoch"))
    if position.partition != home:
        return Resumption(high, Gap(position, newest, "epoch"))
    wanted = position.offset + 1
    if wanted > high:
        # The log is shorter than the client has seen: an unclean election cut it.
        return Resumption(high, Gap(position, newest, "ahead"))
    if wanted < low:
        return Resumption(low, Gap(position, Position(epoch, home, low - 1), "retention"))
    return Resumption(wanted, None)
