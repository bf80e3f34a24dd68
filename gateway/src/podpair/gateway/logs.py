"""Log records: one JSON object a line on standard error, with the ids of the session and request they are about."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from pythonjsonlogger.json import JsonFormatter

from podpair.gateway.core.redaction import redact

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _JsonFormatter(JsonFormatter):
    """Formats one JSON object per line, with passwords in URLs masked."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _TextFormatter(logging.Formatter):
    """Formats text for people: extra fields follow the message."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return redact(super().format(record) + "".join(f" {name}={value}" for name, value in extra.items()))


_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def set_up(level: str, style: str) -> None:
    """Send all log records of this process to standard error; `style` is `json` or `text`."""
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(
            _JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                datefmt="%Y-%m-%dT%H:%M:%S%z",
            )
        )
    else:
        handler.setFormatter(_TextFormatter(_TEXT, datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """Drop records about invalid HTTP, and about bodies that don't match their headers: these are answered with 400.

    So they neither flood the log nor show tokens in it.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))


def ids(*, session: str | None = None, request: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the `extra` of a log call: the ids that the record is about."""
    found = {"session": session, "request": request, **more}
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
