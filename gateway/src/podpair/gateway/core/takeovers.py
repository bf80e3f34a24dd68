"""Decides which connection of a session is the newest, if several gateways each hold one.

Each connection has a stamp, of the time when its client asked for it, and later than that of the connection whose resume token
it brought. One that takes over a session which may live elsewhere is announced by a record that has its stamp.
Invariant: of all connections of a session the one with the latest stamp keeps it, in whatever order and from whatever partition
the announcements are read; one that is written late, after its client had moved on, ends nobody.
"""

import dataclasses
import secrets
from collections.abc import Callable
from typing import NamedTuple, Self

_DIGITS = 19  # of a time at most


class Stamp(NamedTuple):
    """When a connection was asked for. `name` tells apart what two gateways did in the same microsecond."""

    time: int = 0  # microseconds since the epoch, by the gateway's clock or ahead of it
    name: str = ""

    def __str__(self) -> str:
        return f"{self.time}.{self.name}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read what `str` wrote; the earliest if it is anything else."""
        time, _, name = text.partition(".") if isinstance(text, str) else ("", "", "")
        return cls(int(time), name) if time.isdecimal() and time.isascii() and len(time) <= _DIGITS else cls()


class Stamps:
    """Makes stamps, each later than the one before. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0

    def next(self, after: Stamp) -> Stamp:
        """Return a stamp for a new connection, later than `after`, whatever the clock says."""
        self._last = max(int(self._clock() * 1e6), self._last + 1, after.time + 1)
        return Stamp(self._last, secrets.token_hex(8))


@dataclasses.dataclass(slots=True)
class Hold:
    """One connection's hold on its session."""

    stamp: Stamp
    shared: bool  # other gateways may have a connection of the session, and get an announcement of this one
    announced: bool = False  # they were

    def loses_to(self, announcement: str | None) -> bool:
        """Return whether the announced connection is a newer one."""
        return Stamp.parse(announcement) > self.stamp
