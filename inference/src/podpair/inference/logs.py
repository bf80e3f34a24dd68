"""Logs: one record a line on standard error, JSON or text; a record about a request carries its id."""

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

_LogFormat = Literal["json", "text"]
# The configuration, for processes that set up the same.
_set_up: tuple[str, _LogFormat] | None = None


def as_set_up() -> tuple[str, _LogFormat] | None:
    """Return level and format, once `set_up` was called."""
    return _set_up


def set_up(level: str, format: _LogFormat) -> None:  # noqa: A002 - the setting's own name
    """Send every logger's records to standard error."""
    global _set_up
    _set_up = level, format
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                datefmt="%Y-%m-%dT%H:%M:%S%z",
            )
        )
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}


class _TextFormatter(logging.Formatter):
    """Text, with the extra fields after the message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extra = [f"{key}={value}" for key, value in vars(record).items() if key not in _PLAIN]
        return " ".join([super().formatMessage(record), *extra])
