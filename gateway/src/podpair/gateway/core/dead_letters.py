"""Dead letters: what they say besides their request, why it was given up and where it came from.

Invariant: burying and reviving a record loses nothing of it but its deadline, which has no meaning any more, and the mark
of the gateway that queued it: how long it takes from then on says nothing about how long requests wait.
"""

from typing import NamedTuple

from podpair.gateway.core.cloud_events import Headers, in_binary_mode_if_any
from podpair.gateway.core.offsets import Commit, decode_finished, encode_finished
from podpair.gateway.core.protocol import shortened
from podpair.gateway.core.records import QUEUED_AT

_PREFIX = "dead_"
REPLAYS = "replays"  # how often it was requeued


class DeadLetter(NamedTuple):
    """A record on the dead-letter topic, for people to read. Fields are empty if its headers lack them."""

    id: str
    session: str
    model: str
    reason: str
    attempts: str
    origin: str  # topic[partition]@offset on the requests topic
    time: str  # RFC 3339: when it was given up
    by: str  # the gateway that gave it up


class RequeuedOffsets:
    """The dead letters of one partition that were requeued: all below an offset, and single ones behind it. They are kept in
    the commits of the group of replays.

    committed, metadata: of that group. low, high: the offsets of the log; a commit beyond its end is another log's.
    end: `high`.
    """

    def __init__(self, committed: int, metadata: str | None, low: int, high: int) -> None:
        self.end = high
        known = 0 <= committed <= high
        self._upto = max(committed, low) if known else low
        self._beyond = (
            {offset for offset in decode_finished(metadata, committed) if offset >= self._upto} if known else set()
        )
        self.add_all(self._upto)

    def __contains__(self, offset: int) -> bool:
        return offset < self._upto or offset in self._beyond

    def add(self, offset: int) -> None:
        """Mark an offset as requeued."""
        if offset not in self:
            self._beyond.add(offset)
            self.add_all(self._upto)

    def add_all(self, end: int) -> None:
        """Mark all offsets below `end` as requeued."""
        self._upto = max(self._upto, end)
        self._beyond = {offset for offset in self._beyond if offset >= self._upto}
        while self._upto in self._beyond:
            self._beyond.remove(self._upto)
            self._upto += 1

    @property
    def commit(self) -> Commit:
        """What to commit. Single ones that are too far behind the others are left out."""
        return Commit(self._upto, encode_finished(self._beyond, self._upto))


def to_dead_letter(
    headers: Headers | None, *, reason: str, attempts: int, origin: str, time: str, by: str
) -> list[tuple[str, bytes | None]]:
    """Build the headers of the dead letter for a record with `headers`."""
    headers_by_name = {"reason": shortened(reason), "attempts": str(attempts), "origin": origin, "time": time, "by": by}
    kept = [(name, value) for name, value in headers or () if not name.startswith(_PREFIX)]
    return kept + [(_PREFIX + name, value.encode()) for name, value in headers_by_name.items()]


def from_dead_letter(
    value: bytes | None, headers: Headers | None
) -> tuple[bytes | None, list[tuple[str, bytes | None]]]:
    """Return the value and headers of the request that a dead letter was, to be retried: `replays` counts how often."""
    value, headers = in_binary_mode_if_any(value, headers)
    before = dict(headers or ()).get(REPLAYS) or b""
    times = int(before) + 1 if before.isdigit() and len(before) < 10 else 1
    left = ("deadline", "ce_deadline", QUEUED_AT, REPLAYS)
    kept = [(name, value) for name, value in headers or () if not name.startswith(_PREFIX) and name not in left]
    return value, [*kept, (REPLAYS, b"%d" % times)]


def parse_dead_letter(value: bytes | None, headers: Headers | None) -> DeadLetter:
    """Read a dead letter."""
    _, headers = in_binary_mode_if_any(value, headers)
    found = {name: (text or b"").decode(errors="replace") for name, text in headers or ()}
    request = (found.get("ce_id", ""), found.get("ce_subject", ""), found.get("model", found.get("ce_model", "")))
    return DeadLetter(*request, *(found.get(_PREFIX + n, "") for n in ("reason", "attempts", "origin", "time", "by")))
