"""Log records: one JSON object a line on standard error, with the resource that they are about."""

import logging
import sys
from typing import Any

from pythonjsonlogger.json import JsonFormatter

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_KOPFS = {"k8s_ref", "k8s_skip", "settings", "registry"}  # what kopf attaches to records for its own use


class _TextFormatter(logging.Formatter):
    """Text for people: the extra fields follow the message."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD | _KOPFS}
        return super().format(record) + "".join(f" {name}={value}" for name, value in extra.items())


def set_up(level: str, style: str) -> None:
    """Send all log records of this process to standard error; `style` is `json` or `text`."""
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                reserved_attrs=[*_STANDARD, *_KOPFS],
                datefmt="%Y-%m-%dT%H:%M:%S%z",
            )
        )
    else:
        handler.setFormatter(_TextFormatter(_TEXT, datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("aiohttp.access", "kopf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # The service handles signals: kopf warns that it can't in its thread.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


def about(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """Return the `extra` of a log call: the resource that the record is about."""
    return {"namespace": namespace, "gateway": name, **more}
