"""The container's log records: those of `podpair.common.logs`, which its workers set up as the server did."""

from podpair.common import logs

_set_up: tuple[str, logs.Style] | None = None


def as_set_up() -> tuple[str, logs.Style] | None:
    """Return level and style, once `set_up` was called."""
    return _set_up


def set_up(level: str, style: logs.Style) -> None:
    """Send all log records of this process to standard error."""
    global _set_up
    _set_up = level, style
    logs.set_up(level, style)
