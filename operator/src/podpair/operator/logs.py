"""The operator's log records: those of `podpair.common.logs`, with the resource that they are about and without kopf's own."""

import logging
from typing import Any

from podpair.common import logs

_KOPFS = ("k8s_ref", "k8s_skip", "settings", "registry")  # what kopf attaches to records for its own use


def set_up(level: str, style: logs.Style) -> None:
    """Send all log records of this process to standard error."""
    logs.set_up(level, style, hidden=_KOPFS)
    for chatty in ("aiohttp.access", "kopf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # The service handles signals: kopf warns that it can't in its thread.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


def about(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """Return the `extra` of a log call: the resource that the record is about."""
    return {"namespace": namespace, "gateway": name, **more}
