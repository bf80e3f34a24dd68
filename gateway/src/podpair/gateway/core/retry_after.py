"""Parses how long a busy server asks to wait (Retry-After; RFC 9110, 10.2.3)."""

import re
from email.utils import parsedate_to_datetime

_SOONEST, _LATEST = 0.05, 30.0  # seconds after which a busy server is called again, whatever it says
_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{0,30})?")


def parse_retry_after(text: str | bytes | None, unit: float = 1.0, latest: float = _LATEST) -> float | None:
    """Parse a number in `unit` seconds into seconds to wait, at least 0.05 and at most `latest`; None if it is no number.

    RFC 9110, 10.2.3 has whole seconds only, servers have others too.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if text is None or _NUMBER.fullmatch(text.strip()) is None:
        return None
    return min(max(float(text) * unit, _SOONEST), latest)


def parse_retry_date(text: bytes, now: float, latest: float = _LATEST) -> float | None:
    """Parse an HTTP-date (RFC 9110, 5.6.7) into seconds to wait, with the same bounds; `now` in Unix seconds."""
    try:
        found = parsedate_to_datetime(text.decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(found - now, _SOONEST), latest)
