"""Leaving well: every client is told when to go, and those that don't are sent.

Invariant: a session is served until its client leaves; what its client did not get by then is in Kafka.
"""

import asyncio
import logging
import random

from podpair.gateway.core.pacing import departures
from podpair.gateway.core.protocol import CloseCode, event
from podpair.gateway.core.records import control_event
from podpair.gateway.sessions.registry import Registry

_log = logging.getLogger(__name__)
_GRACE = 0.5  # seconds that a client may take to go by itself


async def send_away(registry: Registry, seconds: float) -> None:
    """Spread the departure of all clients over at most `seconds`; returns when each has left or was closed."""
    sessions = [session for session in registry.sessions.values() if session.connection is not None]
    random.shuffle(sessions)
    times = departures(len(sessions), seconds, random.random)
    if sessions:
        _log.info("sending %d clients away over %.1f s", len(sessions), times[-1])
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
