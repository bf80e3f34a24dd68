"""TCP's keepalive: a client whose machine or network is gone says nothing, and would else keep its connection for ever."""

import socket
from contextlib import suppress
from typing import Any

# Seconds of silence before the first probe and between two, and how many go unanswered.
_IDLE, _INTERVAL, _PROBES = 60, 15, 4
_OPTIONS = (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES))


def keep_alive(connected: Any) -> None:
    """Have the kernel probe a silent peer; do nothing for a socket that isn't TCP's. connected: a socket, or None."""
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS:
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
