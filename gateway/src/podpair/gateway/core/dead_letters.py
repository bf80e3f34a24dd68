"""What a dead letter says besides the request that it was: why it is dead, and where it came from.

Invariant: burying and reviving a record loses nothing of it but its deadline, which has no meaning any more, and the mark
of the gateway that queued it: how long it takes from then on says nothing about how long requests wait.
"""

from typing import NamedTuple

from podpair.gateway.core.protocol import shortened
from podpair.gateway.core.records import QUEUED_AT, Headers

_PREFIX = "dead_"
_REPLAYS = "replays"  # how often it was put back


class DeadLetter(NamedTuple):
    """A record on the dead-letter topic, as a person wants to see it. Empty where its headers don't tell."""

    id: str
    session: str
    model: str
    reason: str
    attempts: str
    origin: str  # topic[partition]@offset on the requests topic
    time: str  # RFC 3339: when it was given up
    by: str  # the gateway that gave it up


def buried(
    headers: Headers | None, *, reason: str, attempts: int, origin: str, time: str, by: str
) -> list[tuple[str, bytes | None]]:
    """The headers of the dead letter that a record with `headers` becomes."""
    told = {"reason": shortened(reason), "attempts": str(attempts), "origin": origin, "time": time, "by": by}
    kept = [(name, value) for name, value in headers or () if not name.startswith(_PREFIX)]
    return kept + [(_PREFIX + name, value.encode()) for name, value in told.items()]


def revived(headers: Headers | None) -> list[tuple[str, bytes | None]]:
    """The headers of the request that a dead letter was, to be tried again: `replays` says how often that was done."""
    before = dict(headers or ()).get(_REPLAYS) or b""
    times = int(before) + 1 if before.isdigit() and len(before) < 10 else 1
    left = ("deadline", QUEUED_AT, _REPLAYS)
    kept = [(name, value) for name, value in headers or () if not name.startswith(_PREFIX) and name not in left]
    return [*kept, (_REPLAYS, b"%d" % times)]


def dead_letter_of(headers: Headers | None) -> DeadLetter:
    """Read a dead letter's headers."""
    found = {name: (value or b"").decode(errors="replace") for name, value in headers or ()}
    request = (found.get(name, "") for name in ("ce_id", "ce_subject", "model"))
    return DeadLetter(*request, *(found.get(_PREFIX + n, "") for n in ("reason", "attempts", "origin", "time", "by")))
