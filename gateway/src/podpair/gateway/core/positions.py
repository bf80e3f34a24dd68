"""Positions in the results topic, and what a client that comes back with one can still have.

A position is (topic epoch, partition, offset). The epoch names one incarnation of the topic: offsets of a topic that was
deleted and made anew, or whose partitions were grown (which moves homes), mean nothing in the next one. Where what is
addressed to users is read, too (`results.users`), a position has a place in the user's home besides.
"""

import re
from collections.abc import Container
from typing import NamedTuple

_PLACE = r"(0|[1-9][0-9]{0,8})\.(-1|0|[1-9][0-9]{0,17})"
# The place that the event has itself stands last: what is written before it is the same for many events.
_FORMAT = re.compile(rf"([0-9a-zA-Z]{{1,32}})(?:\.u{_PLACE})?\.{_PLACE}(?:\.u{_PLACE})?", re.ASCII)


class InvalidPosition(ValueError):
    """A text that is not `<epoch>.<partition>.<offset>`."""


class Position(NamedTuple):
    """The place of the last record that a client has processed; offset -1 is before the first one.

    `user`: (partition, offset) of the last one that was addressed to its user. None: that is not read, or was not.
    """

    epoch: str
    partition: int
    offset: int
    user: tuple[int, int] | None = None

    def __str__(self) -> str:
        user = "" if self.user is None else f".u{self.user[0]}.{self.user[1]}"
        return f"{self.epoch}{user}.{self.partition}.{self.offset}"

    def before_user(self) -> str:
        """Return the text of the same position up to the user's offset."""
        return f"{self.epoch}.{self.partition}.{self.offset}.u{self.user[0] if self.user else 0}."

    @property
    def of_user(self) -> "Position | None":
        """The place in the user's home alone."""
        return None if self.user is None else Position(self.epoch, *self.user)

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read what `str` wrote, or what begins as `before_user` says. Raises InvalidPosition."""
        found = _FORMAT.fullmatch(text)
        if found is None or (found[2] and found[6]):
            raise InvalidPosition(f"position {text[:64]!r} is not <epoch>.<partition>.<offset>")
        epoch, before, before_offset, partition, offset, behind, behind_offset = found.groups()
        user = before or behind
        return cls(
            epoch, int(partition), int(offset), (int(user), int(before_offset or behind_offset)) if user else None
        )


class Gap(NamedTuple):
    """Events after `start` up to and including `end` can't be had any more. None if that is not known."""

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
    """Find where a session at `position` goes on, in a partition that holds the offsets low ≤ o < high.

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
