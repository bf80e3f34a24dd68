"""Draining: each client gets a time at which to reconnect elsewhere, and is disconnected if it does not leave.

Invariant: a session is served until its client leaves; events that its client did not get by then are in Kafka.
"""

import asyncio
import logging
import random

from podpair.gateway.core.drain_schedule import departure_times
from podpair.gateway.core.protocol import CloseCode, event
from podpair.gateway.core.records import control_event
from podpair.gateway.sessions.registry import Registry

_log = logging.getLogger(__name__)
_GRACE = 0.5  # seconds that a client may take to leave by itself


async def drain_sessions(registry: Registry, seconds: float) -> None:
    """Spread the departure of all clients over at most `seconds`; return when each has left or was closed."""
    sessions = [session for session in registry.sessions.values() if session.connection is not None]
    random.shuffle(sessions)
    times = departure_times(len(sessions), seconds, random.random)
    if sessions:
        _log.info("draining %d clients over %.1f s", len(sessions), times[-1])
    loop = asyncio.get_running_loop()
    began = loop.time()
    staying = []
    for session, leaves in zip(sessions, times, strict=True):
        payload = event("drain", reconnect_after_ms=round(leaves * 1000))
        if session.send(control_event("drain", payload)):
            staying.append((session, session.connection, began + leaves + _GRACE))
    for session, connection, due in staying:
        if session.connection is not connection or connection is None:
            continue
        ahead = due - loop.time()
        if ahead > 0.01:
            await asyncio.sleep(ahead)
        if session.connection is connection:
            session.end(CloseCode.RESTART, "the gateway is leaving: reconnect")
