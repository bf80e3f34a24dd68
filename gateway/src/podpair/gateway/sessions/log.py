"""The place of one session's client in a log that it follows: the records of one key in that key's home partition.

A session follows its own log (`session.py`), with `results.users` its user's (`user_log.py`), and those of the channels that it
subscribes to (`subscription.py`). All are fed and caught up with in the same way (`fanout.py`, `resume.py`).

Invariant: the client was given all records up to `seen`, or a gap that covers them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from podpair.gateway.core.positions import Position
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import Event
from podpair.gateway.sessions.connection import Connection

_NOTHING: Mapping[str, str] = MappingProxyType({})


class DeliveryResult(NamedTuple):
    """The result of delivering records."""

    sent: int
    duplicates: int  # dropped: second terminal events of a request
    complete: bool  # the client accepted all of them


class Log(ABC):
    """A log that a client follows. `id` is the key of its records."""

    __slots__ = ("home", "id", "key", "live", "moves", "previous_home", "seen")

    connection: Connection | None

    def __init__(self, key: str, home: int) -> None:
        self.id = key
        self.key = key.encode()
        self.home = home  # partition of the results topic
        self.previous_home: int | None = None  # some producers may still write there: the topic was widened
        self.moves = 0  # how often the results topic has changed while the log is followed
        self.live = False  # caught up: records are delivered as they are read
        self.seen = -1  # offset of the last record delivered, or of the one before the first

    @property
    def gap_members(self) -> Mapping[str, str]:
        """What a gap of this log says besides its positions: which of several logs it is."""
        return _NOTHING

    def move(self, home: int, previous_home: int | None) -> None:
        """Follow the results topic, which has changed, to another home. The former place says nothing about the new log.

        With a `previous_home` the log is the same, and its keys were redistributed.
        """
        if previous_home != home:
            self.seen = -1
        self.home = home
        self.previous_home = None if previous_home == home else previous_home
        self.moves += 1
        self.live = False

    def skip_to(self, offset: int) -> None:
        """Go on at `offset`; what is before it can't be had any more."""
        self.seen = offset - 1

    @abstractmethod
    def position(self, epoch: str, offset: int) -> Position:
        """Return the position of a client that was given this log up to `offset`."""

    @abstractmethod
    def update_position_prefix(self, epoch: str) -> None:
        """Update the prefix of the positions of further events."""

    @abstractmethod
    def deliver(self, records: Iterable[Record], *, merge: bool = False) -> DeliveryResult:
        """Send records of the home partition, in order, except those that were seen before. merge: adjacent partials as one.

        If the client does not accept all of them, it has to catch up from `seen`.
        """

    @abstractmethod
    def take_answers(self, records: Sequence[Record]) -> tuple[list[Event], list[Record]]:
        """Split records of a partition other than the home into answers that the client may wait for, and the rest."""

    @abstractmethod
    def deliver_unplaced(self, records: Iterable[Record]) -> None:
        """Send records of a partition other than the home, without positions, if the client is connected."""

    @abstractmethod
    def observe(self, records: Iterable[Record]) -> None:
        """Inspect records of the home partition that are not delivered: the client is away, or has to catch up."""

    def apply_takeovers(self, takeovers: Iterable[Event]) -> None:  # noqa: B027 - only sessions are taken over
        """Close the client's connection if a newer one is announced."""

    @abstractmethod
    def note_gap(self) -> None:
        """Note that a gap is declared to the client."""

    @abstractmethod
    def end(self, code: int, reason: str) -> None:
        """Close the client's connection, if there is one."""
