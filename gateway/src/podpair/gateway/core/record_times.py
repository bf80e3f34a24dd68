"""Times in the headers of records: RFC 3339 in `ce_time`, Unix milliseconds in podpair's own."""

import re
from datetime import UTC, date, datetime
from functools import lru_cache

_YEAR_1000 = -30_610_224_000_000  # its beginning, in Unix milliseconds; earlier years have fewer digits
_YEAR_9999 = 253_402_300_800_000  # its end, in Unix milliseconds
_RFC_3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_CYCLE = 146_097  # days of 400 years, after which the calendar repeats itself
_EPOCH = date(1970, 1, 1).toordinal()


def unix_milliseconds(seconds: float) -> int:
    """Return whole milliseconds of Unix seconds; whole ones stay exact, though 8368.524 * 1000 is less than 8368524."""
    return int(seconds * 1000 + 0.01)


def rfc_3339(milliseconds: int) -> bytes:
    """Format Unix milliseconds, in UTC; what is beyond the years 1000 to 9999, as a producer may write it, as their ends."""
    milliseconds = min(max(milliseconds, _YEAR_1000), _YEAR_9999 - 1)
    seconds, rest = divmod(milliseconds, 1000)
    return b"%b.%03d+00:00" % (_second(seconds), rest)


@lru_cache(4)
def _second(seconds: int) -> bytes:
    """Format Unix seconds, without an offset; many records are written in the same one."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@lru_cache(256)
def unix_seconds(ce_time: bytes) -> float:
    """Parse an RFC 3339 time into Unix seconds; other forms of ISO 8601 are read, too, as UTC if they name no offset.

    A leap second is the first one of the next minute. Raises ValueError.
    """
    if len(ce_time) == 29 and ce_time.endswith(b"+00:00") and ce_time[19:20] == b"." and ce_time[20:23].isdigit():
        return unix_seconds(ce_time[:19] + b"Z") + int(ce_time[20:23]) / 1000  # as gateways write it
    text = ce_time.decode()
    found = _RFC_3339.fullmatch(text)
    if found is None:
        other = datetime.fromisoformat(text)
        return (other if other.tzinfo is not None else other.replace(tzinfo=UTC)).timestamp()
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction, sign, hours, minutes = found.groups()[6:]
    if hour > 23 or minute > 59 or second > 60 or int(hours or 0) > 23 or int(minutes or 0) > 59:
        raise ValueError(f"{text!r} is no time of a day")
    # Python's calendar begins with the year 1.
    days = date(year, month, day).toordinal() if year else date(400, month, day).toordinal() - _CYCLE
    offset = int(hours or 0) * 3600 + int(minutes or 0) * 60
    whole = (days - _EPOCH) * 86400 + hour * 3600 + minute * 60 + second - (-offset if sign == "-" else offset)
    return whole + float(fraction or 0)


def unix_deadline(text: bytes) -> float:
    """Parse a deadline into Unix seconds: from Unix milliseconds, or an RFC 3339 time, as SDKs write it.

    Raises ValueError, also beyond the year 9999.
    """
    if b"T" in text.upper():
        return unix_seconds(text)
    milliseconds = int(text)
    if abs(milliseconds) > _YEAR_9999:
        raise ValueError(f"a time of {len(str(milliseconds))} digits")
    return milliseconds / 1000
