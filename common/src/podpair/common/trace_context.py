"""W3C Trace Context: the `traceparent` that says which trace a request belongs to (https://www.w3.org/TR/trace-context/, 3.2)."""

import re
from typing import NamedTuple

_FORMAT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NOWHERE = ("0" * 32, "0" * 16)


class Parent(NamedTuple):
    """The span that a request comes from."""

    trace: int
    span: int
    sampled: bool  # whether the caller records the trace


def parent_of(traceparent: str) -> Parent | None:
    """Read a `traceparent`; None if it is none, and so says nothing."""
    found = _FORMAT.fullmatch(traceparent)
    if found is None or found[2] == _NOWHERE[0] or found[3] == _NOWHERE[1] or (found[1] == "00" and found[5]):
        return None
    return Parent(int(found[2], 16), int(found[3], 16), sampled=bool(int(found[4], 16) & 1))


def traceparent_of(trace: int, span: int) -> str:
    """Return the `traceparent` of a span that is recorded."""
    return f"00-{trace:032x}-{span:016x}-01"
