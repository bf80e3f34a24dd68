"""GET /v1/events: the receiving half of a session as server-sent events."""

import asyncio
import logging

from aiohttp import web
from confluent_kafka import KafkaException

from podpair.gateway.core.protocol import closing_reason
from podpair.gateway.core.wires import EventStreamWire
from podpair.gateway.http.admission import Admission, Refused, Visitor
from podpair.gateway.http.connections import counts_as_session
from podpair.gateway.logs import ids
from podpair.gateway.service import Service
from podpair.gateway.sessions.registry import NotYours

_log = logging.getLogger(__name__)
_COMMENT = b"4\r\n: \n\n\r\n"  # a comment as one HTTP chunk: keeps proxies from closing a silent stream


class EventStreamEdge:
    """Streams until the client leaves or the session is closed."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self._service = service
        self._admission = admission

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The handler of the route."""
        position = request.headers.get("Last-Event-ID") or request.query.get("position")
        try:
            visitor = await self._admission.visitor(request, position=position)
            counts_as_session(request, True)
            release = await self._admission.hold(visitor.parts, visitor.session)
        except Refused as refused:
            counts_as_session(request, False)
            return refused.response
        try:
            return await self._serve(request, visitor)
        finally:
            release()
            counts_as_session(request, False)

    async def _serve(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        parts = visitor.parts
        config, metrics = self._service.config, self._service.metrics
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        done = asyncio.Event()

        def close(code: int, reason: str) -> None:
            metrics.closed.labels(closing_reason(code)).inc()
            done.set()

        wire = EventStreamWire(parts.joining.prefix(parts.homes.of(visitor.session)))
        try:
            session, connection = self._admission.connect(visitor, "events", transport, wire, close)
        except NotYours:  # that user came while this one was let in
            return response
        try:
            begun = await parts.joining.begin(session, connection, resumed=visitor.resumed, position=visitor.position)
            parts.takeovers.announce(session, connection)
            await parts.joining.begun(session, connection, begun)
            while not done.is_set() and not transport.is_closing():
                try:
                    async with asyncio.timeout(config.sessions.heartbeat_seconds):
                        await done.wait()
                except TimeoutError:
                    if connection.open:
                        transport.write(_COMMENT)
        except KafkaException as error:
            _log.error("the results can't be read: %s", error, extra=ids(session=session.id))
        finally:
            if not connection.closing:
                metrics.closed.labels("client").inc()
            parts.registry.detach(session, connection)
        if transport.get_write_buffer_size():
            transport.abort()  # too slow for its own end
        return response
