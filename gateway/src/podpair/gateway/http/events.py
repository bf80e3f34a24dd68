"""GET /v1/events: the receiving half of a session as server-sent events.

Invariant: a disconnected client is noticed at once or, if its network sends nothing, within two heartbeats.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from confluent_kafka import KafkaException

from podpair.common.listener.connections import counts_as_session, when_disconnected
from podpair.common.logs import ids
from podpair.gateway.components import Components
from podpair.gateway.core.event_ids import TAKEN_OVER, parse_event_id
from podpair.gateway.core.protocol import CloseCode, closing_reason
from podpair.gateway.core.wires import EventStreamWire
from podpair.gateway.http.admission import Admission, Refused, Visitor
from podpair.gateway.http.channels import ChannelFrames
from podpair.gateway.service import Service
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.registry import NotOwner
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_RENEWALS = 4  # of the resume token in the ids, during the lifetime of one


class EventStreamEdge:
    """Streams events until the client leaves or the session is closed."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self._service = service
        self._admission = admission
        self._channels = ChannelFrames()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle GET /v1/events."""
        position, resume = request.query.get("position"), request.query.get("resume")
        if last := request.headers.get("Last-Event-ID"):
            if last == TAKEN_OVER:
                return web.Response(status=204)  # an EventSource does not reconnect then (WHATWG HTML, 9.2.2)
            # The URL is that of the first connection, the id is that of the last event.
            seen = parse_event_id(last)
            position, resume = seen.position, seen.resume or resume
        try:
            visitor = await self._admission.visitor(request, position=position, resume=resume)
            counts_as_session(request, True)
            release = await self._admission.acquire_homes(visitor.components, visitor.session, visitor.identity.subject)
        except Refused as refused:
            counts_as_session(request, False)
            return refused.response
        try:
            return await self._serve(request, visitor)
        finally:
            release()
            counts_as_session(request, False)

    async def _serve(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        components = visitor.components
        chunked = request.version >= (1, 1)
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store, no-transform",  # compressing proxies buffer small events
                "X-Accel-Buffering": "no",
            }
        )
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.force_close()  # HTTP/1.0: the stream ends with its connection
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        done = asyncio.Event()
        wire = EventStreamWire(shorten=self._service.tokens.short, chunked=chunked)

        def close(code: int, reason: str) -> None:
            self._service.metrics.closed.labels(closing_reason(code)).inc()
            if not transport.is_closing():
                transport.write(wire.closed(code, reason))
            done.set()

        try:
            session, connection = self._admission.connect(visitor, "events", transport, wire, close)
        except NotOwner:  # its user connected while this client was admitted
            return response
        when_disconnected(request, done.set)
        settings = self._service.config.sessions
        # A slow client is closed by its own timeout; TCP can not distinguish it from a dead one.
        with _bounded_silence(transport, max(settings.heartbeat_seconds, 2 * settings.slow_consumer_timeout_seconds)):
            try:
                start = await components.sessions.resume.begin(
                    session, connection, resumed=visitor.resumed, position=visitor.position, foreign=visitor.foreign
                )
                components.sessions.takeovers.announce(session, connection)
                self._channels.begin(visitor, session, connection)
                await components.sessions.resume.catch_up_session(session, connection, start)
                await self._keep_alive(components, transport, wire, session, connection, done)
            except KafkaException as error:
                _log.error("the results can't be read: %s", error, extra=ids(session=session.id))
                connection.close(CloseCode.TRY_AGAIN, "the results can't be read now: resume")
            finally:
                when_disconnected(request, None)
                if not connection.closing:
                    self._service.metrics.closed.labels("client").inc()
                components.sessions.registry.detach(session, connection)
        if transport.get_write_buffer_size():
            transport.abort()  # the client does not even read the end
        return response

    async def _keep_alive(
        self,
        components: Components,
        transport: asyncio.WriteTransport,
        wire: EventStreamWire,
        session: Session,
        connection: Connection,
        done: asyncio.Event,
    ) -> None:
        """Send heartbeats until the stream is `done`."""
        settings = self._service.config.sessions
        renewed = time.monotonic()
        while not done.is_set() and not transport.is_closing():
            try:
                async with asyncio.timeout(settings.heartbeat_seconds):
                    await done.wait()
            except TimeoutError:
                if not connection.open:
                    continue
                # While a gap is unsent, a token that includes it would be too early.
                if time.monotonic() - renewed > settings.resume_seconds / _RENEWALS and not connection.congested:
                    renewed = time.monotonic()
                    wire.renew(components.sessions.resume.resume_token(session))
                transport.write(wire.comment())


@contextmanager
def _bounded_silence(transport: asyncio.BaseTransport, seconds: float) -> Iterator[None]:
    """Close the connection when sent data is not acknowledged for so long (RFC 5482).

    TCP's default is a quarter of an hour. The option exists only on Linux.
    """
    sock = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if sock is None or option is None:
        yield
        return
    sock.setsockopt(socket.IPPROTO_TCP, option, max(1, int(seconds * 1000)))
    try:
        yield
    finally:
        if not transport.is_closing():
            sock.setsockopt(socket.IPPROTO_TCP, option, 0)
