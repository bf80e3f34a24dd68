"""What the clients of sessions have received, for subscriptions that are only for those who are away (`when: absent`).

A receipt says that one connection of a session has all of its records within a range of a partition. Gateways write them to the
topic of the subscriptions, for sessions with such a subscription alone, so that whichever delivers knows them.

Invariant: what no receipt covers counts as not received. Too few receipts make a notification too many, never one too few.
"""

from collections import deque
from typing import NamedTuple

import msgspec

RECEIPT = b"received "
"""What the keys of their records begin with; the session's id follows."""
_REMEMBERED = 8  # ranges of each session: of connections that followed each other


class Receipt(NamedTuple):
    """A client has the records of its session after offset `begin`, up to `end` and with it."""

    incarnation: str  # of the topic
    partition: int
    begin: int
    end: int


class Receipts:
    """The receipts of sessions, by their ids."""

    def __init__(self) -> None:
        self._by_session: dict[str, deque[Receipt]] = {}

    def sessions(self) -> list[str]:
        """Return the sessions that have receipts."""
        return list(self._by_session)

    def apply(self, session: str, value: bytes | None) -> bool:
        """Take over a record; without a value the session's are forgotten. Return False for one that can't be read."""
        if value is None:
            self._by_session.pop(session, None)
            return True
        try:
            found = msgspec.json.decode(value, type=Receipt)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        known = self._by_session.setdefault(session, deque(maxlen=_REMEMBERED))
        if known and known[-1][:3] == found[:3]:
            known.pop()
        known.append(found)
        return True

    def covers(self, session: str, incarnation: str, partition: int, offset: int) -> bool:
        """Return whether the session's client has received a record."""
        return any(
            (one.incarnation, one.partition) == (incarnation, partition) and one.begin < offset <= one.end
            for one in self._by_session.get(session, ())
        )

    def clear(self) -> None:
        """Forget all."""
        self._by_session.clear()


def encode_receipt(receipt: Receipt) -> bytes:
    """Encode the value of its record."""
    return msgspec.json.encode(receipt)
