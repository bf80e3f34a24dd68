"""The gateway's log records: those of `podpair.common.logs`, without what aiohttp says of others' mistakes."""

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from podpair.common import logs


def set_up(level: str, style: logs.Style) -> None:
    """Send all log records of this process to standard error."""
    logs.set_up(level, style)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """Drop records about invalid HTTP, and about bodies that don't match their headers: these are answered with 400.

    So they neither flood the log nor show tokens in it.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))
