"""The limits of the operator's ports: few clients, all of them machines that are near."""

import ssl
from collections.abc import Callable

from aiohttp import web
from prometheus_client import Counter

from podpair.common.listener.acceptor import Acceptor
from podpair.common.listener.connections import ConnectionLimits, Connections

LIMITS = ConnectionLimits(tls_handshake=10.0, head=30.0, stall=60.0, keep_alive=630.0, connections=256)


def make_acceptor(
    runner: web.AppRunner,
    port: str,
    closed: Counter,
    refused: Counter,
    *,
    context: Callable[[], ssl.SSLContext | None] = lambda: None,
    limits: ConnectionLimits = LIMITS,
) -> Acceptor:
    """Make the acceptor of `runner`, which is set up; `port` is the counters' label.

    Raises UnsupportedAiohttp.
    """
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    return Acceptor(
        runner.server,
        Connections(limits, lambda reason: closed.labels(port, reason).inc()),
        context=context,
        on_refused=lambda reason: refused.labels(port, reason).inc(),
        reserve=False,
    )
