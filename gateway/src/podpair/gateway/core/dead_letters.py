"""What a dead letter says besides the request that it was: why it is dead, and where it came from.

Invariant: burying and reviving a record loses nothing of it but its deadline, which has no meaning any more.
"""

from typing import NamedTuple

from podpair.gateway.core.protocol import shortened
from podpair.gateway.core.records import Headers

_PREFIX = "dead_"


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
    """The headers of the request that a dead letter was, to be tried again."""
    return [(name, value) for name, value in headers or () if not name.startswith(_PREFIX) and name != "deadline"]


def dead_letter_of(headers: Headers | None) -> DeadLetter:
    """Read a dead letter's headers."""
    found = {name: (value or b"").decode(errors="replace") for name, value in headers or ()}
    request = (found.get(name, "") for name in ("ce_id", "ce_subject", "model"))
    return DeadLetter(*request, *(found.get(_PREFIX + n, "") for n in ("reason", "attempts", "origin", "time", "by")))
