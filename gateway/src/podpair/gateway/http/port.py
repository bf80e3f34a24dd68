"""Sets up the ports of the gateway: their limits and metrics."""

import contextlib
import logging
import resource
import ssl
from functools import partial

from aiohttp import web

from podpair.common.gateway_config.model import Config
from podpair.common.listener.acceptor import RESERVE, Acceptor
from podpair.common.listener.connections import ConnectionLimits, Connections
from podpair.gateway.http.json_errors import JsonErrorHandler
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)


def make_acceptor(
    runner: web.AppRunner, config: Config, metrics: Metrics, context: ssl.SSLContext | None, *, public: bool = True
) -> Acceptor:
    """Create the acceptor of connections for `runner`, which has been set up.

    A port that is not public is for operators and probes: it may use the last file descriptors, and its connections are not in
    the metrics. Raises UnsupportedAiohttp.
    """
    http = config.http
    limits = ConnectionLimits(
        tls_handshake=http.tls_handshake_seconds,
        head=http.head_seconds,
        stall=http.stall_seconds,
        keep_alive=http.keep_alive_seconds,
        connections=config.limits.connections,
    )
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    connections = Connections(limits, lambda reason: metrics.connections_closed.labels(reason).inc(), JsonErrorHandler)
    acceptor = Acceptor(
        runner.server,
        connections,
        context=lambda: context,
        on_refused=lambda reason: metrics.connections_refused.labels(reason).inc(),
        reserve=public,
    )
    if public:
        metrics.connections.labels("tls_handshake").set_function(lambda: acceptor.beginning)
        for kind in connections.counts():
            metrics.connections.labels(kind).set_function(partial(_count, connections, kind))
    return acceptor


def _count(connections: Connections, kind: str) -> int:
    return connections.counts()[kind]


def raise_descriptor_limit(wanted: int) -> None:
    """Raise the limit of file descriptors as far as the system allows; warn if it stays below `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < wanted + RESERVE:
        _log.warning(
            "%d file descriptors are allowed (RLIMIT_NOFILE), for up to %d connections (limits.sessions,"
            " limits.connections): clients are refused before",
            soft,
            wanted,
        )
