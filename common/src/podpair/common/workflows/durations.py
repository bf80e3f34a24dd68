"""Durations as people write them: `500ms`, `30s`, `5m`, `2h`, `3d`, or a number of seconds."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST = 366 * 86_400.0


def seconds(given: Any) -> Any:
    """Return the seconds of a duration; what is no text is returned as it is. Raises ValueError."""
    if not isinstance(given, str):
        return given
    found = _WRITTEN.fullmatch(given)
    if found is None:
        raise ValueError("no duration; write 500ms, 30s, 5m, 2h or 3d")
    return float(found[1]) * _SECONDS[found[2]]


Duration = Annotated[float, Field(gt=0, le=_LONGEST, allow_inf_nan=False), BeforeValidator(seconds)]
"""Seconds, more than 0 and at most a leap year."""
