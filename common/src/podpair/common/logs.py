"""Log records: one JSON object a line on standard error, or text for people, with passwords in URLs masked.

What a record is about is in its `extra`: fields of the object, or `name=value` after the message.
"""

import logging
import sys
import time
from collections.abc import Callable, Collection
from typing import Any, Literal

from pythonjsonlogger.json import JsonFormatter

from podpair.common.redaction import redact

Style = Literal["json", "text"]

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class _JsonFormatter(JsonFormatter):
    """Formats one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _TextFormatter(logging.Formatter):
    """Formats text for people: extra fields follow the message, and a traceback follows them."""

    def __init__(self, reserved: Collection[str]) -> None:
        super().__init__(_TEXT, datefmt="%H:%M:%S")
        self._reserved = reserved

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extra = [f"{name}={value}" for name, value in vars(record).items() if name not in self._reserved]
        return " ".join([super().formatMessage(record), *extra])


def set_up(level: str, style: Style, hidden: Collection[str] = ()) -> None:
    """Send all log records of this process to standard error.

    Args:
        level: the least that is logged, such as `info`.
        style: `json` or `text`.
        hidden: what a library attaches to records for its own use.
    """
    reserved = _STANDARD.union(hidden)
    formatter: logging.Formatter
    if style == "json":
        formatter = _JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            reserved_attrs=reserved,
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    else:
        formatter = _TextFormatter(reserved)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def ids(**found: Any) -> dict[str, Any]:
    """Return the `extra` of a log call: the ids that the record is about, without those that are None."""
    return {name: value for name, value in found.items() if value is not None}


class Throttle:
    """Limits log lines of one kind to `burst` in `seconds`; the next line says how many were left out."""

    def __init__(self, burst: int = 10, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._since = clock()
        self._lines = 0  # since then
        self._left_out = 0

    def log(
        self, log: logging.Logger, level: int, message: str, *args: Any, extra: dict[str, Any] | None = None
    ) -> None:
        """Write the line, or leave it out."""
        now = self._clock()
        if now - self._since >= self._seconds:
            self._since, self._lines = now, 0
        if self._lines >= self._burst:
            self._left_out += 1
            return
        self._lines += 1
        if self._left_out:
            extra = {**(extra or {}), "left_out": self._left_out}
            self._left_out = 0
        log.log(level, message, *args, extra=extra)
