"""GET /v1/ws: a session over a WebSocket."""

import asyncio
import logging
from collections.abc import Callable

import msgspec
from aiohttp import WSCloseCode, web
from confluent_kafka import KafkaException

from podpair.gateway.auth.identity import KeysUnavailable, Unauthorized
from podpair.gateway.core.handshake import VERSION, InvalidHandshake, switching_protocols
from podpair.gateway.core.protocol import (
    Cancel,
    CloseCode,
    Code,
    Fault,
    Infer,
    InferRow,
    InvalidFrame,
    Refresh,
    closing_reason,
    decode,
    decode_row,
    error_event,
)
from podpair.gateway.core.records import Event, Kind, control_event
from podpair.gateway.core.wires import JsonWire, RawWire
from podpair.gateway.http.admission import Admission, Refused, Visitor, offered_protocols
from podpair.gateway.http.connections import counts_as_session
from podpair.gateway.http.upgraded import Heartbeats, Message, Upgraded, WebSocketStream, take_over
from podpair.gateway.logs import ids
from podpair.gateway.service import Service
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.joining import Start
from podpair.gateway.sessions.registry import NotYours
from podpair.gateway.sessions.repeating import Duplicate
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
JSON, RAW = "podpair.v1", "podpair.v1.raw"
_MINUTE = 60.0


class WebSocketEdge:
    """Lets clients in; what is theirs from then on is in `_Client`."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self.service = service
        self.admission = admission
        self.heartbeats = Heartbeats(service.config.sessions.heartbeat_seconds)
        self.refreshing: set[asyncio.Task[None]] = set()
        service.metrics.connections.labels("websocket").set_function(lambda: len(self.heartbeats))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The handler of the route."""
        try:
            visitor = await self.admission.visitor(request, position=request.query.get("position"))
            protocol = self._choose(request)
            answer = self._handshake(request, protocol)
            counts_as_session(request, True)
            release = await self.admission.hold(visitor.parts, visitor.session)
        except Refused as refused:
            counts_as_session(request, False)
            return refused.response
        taken = take_over(request)
        if taken is None:
            release()
            return Upgraded()
        transport, behind = taken
        client = _Client(self, visitor, transport, protocol, release)
        transport.set_protocol(client.stream)
        transport.write(answer)
        client.stream.data_received(behind)
        await client.begin(visitor, protocol)
        return Upgraded()

    def _choose(self, request: web.Request) -> str:
        offered = [p for p in offered_protocols(request) if not p.startswith("bearer.")]
        protocol = next((p for p in offered if p in (JSON, RAW)), None if offered else JSON)
        if protocol is None:
            message = f"subprotocol {offered[0]!r} is not known: offer {JSON} or {RAW}"
            raise self.admission.refuse(400, "invalid", message)
        return protocol

    def _handshake(self, request: web.Request, protocol: str) -> bytes:
        offered = protocol if protocol in offered_protocols(request) else None
        try:
            return switching_protocols(request.headers.items(), offered, request.version[:2])
        except InvalidHandshake as error:
            refused = self.admission.refuse(error.status, "invalid", str(error))
            if error.status == 426:
                refused.response.headers.update(
                    {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": VERSION}
                )
            raise refused from None


class _Client:
    """One connection of a session: what its frames ask for is the dispatcher's."""

    __slots__ = (
        "_catching_up", "_connection", "_edge", "_invalid", "_parts", "_release", "_rows", "_session", "_since", "stream",
    )  # fmt: skip

    def __init__(
        self,
        edge: WebSocketEdge,
        visitor: Visitor,
        transport: asyncio.Transport,
        protocol: str,
        release: Callable[[], None],
    ) -> None:
        self._edge = edge
        self._parts = visitor.parts
        self._release = release
        # The last request was a row of numbers, to be read at once: so will be the next. For the queue they stay as they
        # are written: to write numbers anew costs more than all else that is done there.
        self._rows = True
        self._invalid = 0  # frames that were none of the protocol, since `_since` (of the service's clock)
        self._since = 0.0
        self._catching_up: asyncio.Task[None] | None = None
        self._session: Session | None = None  # once it is the session's
        self._connection: Connection | None = None
        self.stream = WebSocketStream(
            transport,
            edge.heartbeats,
            most=edge.service.config.limits.message_bytes,
            on_message=self._message if protocol == JSON else self._unsupported,
            on_lost=self._lost,
            on_broken=self._broken,
        )

    async def begin(self, visitor: Visitor, protocol: str) -> None:
        """Make the connection its session's, and say welcome; then its messages are taken."""
        parts, raw = self._parts, protocol == RAW
        wire = RawWire() if raw else JsonWire(parts.joining.prefix(parts.homes.of(visitor.session)))
        kind = "raw" if raw else "websocket"
        try:
            session, connection = self._edge.admission.connect(visitor, kind, self.stream.transport, wire, self._close)
        except NotYours as error:  # that user came while this one was let in
            self.stream.close(WSCloseCode.POLICY_VIOLATION, str(error))
            self.stream.resume()
            return
        self._session, self._connection = session, connection
        _log.debug("connected", extra=ids(session=session.id, subject=session.subject))
        try:
            begun = await parts.joining.begin(session, connection, resumed=visitor.resumed, position=visitor.position)
        except Exception as error:
            _cannot_go_on(session, connection, error)
        else:
            task = self._catching_up = asyncio.create_task(self._catch_up(session, connection, begun))
            task.add_done_callback(self._caught_up)
            parts.takeovers.announce(session, connection)
        self.stream.resume()

    async def _catch_up(self, session: Session, connection: Connection, begun: Start) -> None:
        try:
            await self._parts.joining.begun(session, connection, begun)
        except Exception as error:
            _cannot_go_on(session, connection, error)

    def _caught_up(self, _: asyncio.Task[None]) -> None:
        self._catching_up = None

    def _close(self, code: int, reason: str) -> None:
        """The session's end of the connection is closed: so is the client's."""
        self._edge.service.metrics.closed.labels(closing_reason(code)).inc()
        self.stream.close(code, reason)

    def _broken(self, code: int, reason: str) -> None:
        if code == CloseCode.TOO_LARGE:
            most = self._edge.service.config.limits.message_bytes
            reason = f"a frame is larger than {most} bytes (limits.message_bytes)"
        if self._connection is not None:
            self._connection.close(code, reason)
        self.stream.close(code, reason)

    def _lost(self) -> None:
        session, connection = self._session, self._connection
        if self._catching_up is not None:
            self._catching_up.cancel()
        if session is not None and connection is not None:
            if not connection.closing:
                self._edge.service.metrics.closed.labels("client").inc()
            self._parts.registry.detach(session, connection)
            _log.debug("disconnected", extra=ids(session=session.id, code=self.stream.close_code))
        self._session = self._connection = None
        self._release()

    def _unsupported(self, _: Message) -> None:
        if self._connection is not None:
            self._connection.close(CloseCode.UNSUPPORTED, f"{RAW} is receive only")

    def _message(self, frame: Message) -> None:
        """A message of the client's. Nothing that it holds ends more than its own connection."""
        session, connection = self._session, self._connection
        if session is None or connection is None or session.connection is not connection or connection.closing:
            return
        session.active = self._edge.service.clock()
        try:
            row = decode_row(frame, self._parts.dispatcher.models) if self._rows else None
            if row is not None:
                self._rows = row.route != "queue"
                self._infer(session, row)
                return
            message = decode(frame)
            self._rows = (
                isinstance(message, Infer) and message.route != "queue" and bytes(message.data).startswith(b"[")
            )
            if isinstance(message, Infer):
                self._infer(session, message)
            elif isinstance(message, Cancel):
                self._parts.dispatcher.cancel(session, message.id)
            else:
                self.stream.hold()  # that takes a while: the frames behind it wait their turn
                task = asyncio.create_task(self._refresh(session, message))
                self._edge.refreshing.add(task)
                task.add_done_callback(self._refreshed)
        except InvalidFrame as error:
            self._edge.service.metrics.frames.inc()
            _refuse(session, Fault(Code.INVALID, error.message), error.id)
            self._count_invalid(connection)
        except Exception:
            _log.exception("a frame failed", extra=ids(session=session.id))
            connection.close(CloseCode.INTERNAL, "internal error: resume")

    def _count_invalid(self, connection: Connection) -> None:
        """One more frame that is good for nothing: too many in a minute end the connection."""
        now = self._edge.service.clock()
        if now - self._since > _MINUTE:
            self._invalid, self._since = 0, now
        self._invalid += 1
        most = self._edge.service.config.limits.invalid_frames
        if self._invalid > most:
            connection.close(CloseCode.POLICY, f"more than {most} invalid frames in a minute (limits.invalid_frames)")

    def _infer(self, session: Session, message: Infer | InferRow) -> None:
        try:
            # What is in flight already counts: to ask for it again, after a reconnect, takes nothing more.
            if session.grant is not None and session.ledger.get(message.id) is None:
                route = self._edge.admission.admit(session.grant, message.model, message.route)
                if route != message.route:
                    message = msgspec.structs.replace(message, route=route)
            self._parts.dispatcher.infer(session, message, session.grant)
        except Duplicate as fault:
            _refuse(session, fault, None)
        except Fault as fault:
            self._edge.service.metrics.refused.labels(fault.code).inc()
            _refuse(session, fault, message.id)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._edge.refreshing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a token could not be refreshed", exc_info=error)
        self.stream.resume()

    async def _refresh(self, session: Session, message: Refresh) -> None:
        service, parts = self._edge.service, self._parts
        try:
            identity = await service.verifier.verify(message.token)
            if identity.subject != session.subject:
                raise Unauthorized("the new token is another user's")
            if identity.session is not None and identity.session != session.id:
                claim = service.config.auth.session_claim
                raise Unauthorized(f"the new token is for another session (claim {claim})")
        except Unauthorized as error:
            service.metrics.refreshed.labels("refused").inc()
            _refuse(session, Fault(Code.UNAUTHORIZED, str(error)), None)
            if session.connection is self._connection and self._connection is not None:
                self._count_invalid(self._connection)
            return
        except KeysUnavailable as error:
            _refuse(session, Fault(Code.OVERLOADED, str(error), retry_after_ms=10_000), None)
            return
        if session.connection is not self._connection:
            return
        service.metrics.refreshed.labels("taken").inc()
        parts.registry.refreshed(session, identity.expires_at)
        parts.registry.granted(session, self._edge.admission.grant(identity))
        welcome = parts.joining.welcome(session, resumed=True)
        session.send(control_event("welcome", welcome))


def _refuse(session: Session, fault: Fault, request_id: str | None) -> None:
    """An error event. For an id that is open it must not look like that request's end, so it has none."""
    if request_id is None or session.ledger.get(request_id) is not None:
        session.send(control_event("error", error_event(fault, None)))
    else:
        session.send(Event(Kind.TERMINAL, "error", request_id, error_event(fault, request_id), -1))


def _cannot_go_on(session: Session, connection: Connection, error: Exception) -> None:
    """Its records can't be had. Where the client is gone, or was sent away, that is nothing to tell of."""
    if not connection.open:
        return
    if isinstance(error, KafkaException):
        _log.error("the results can't be read: %s", error, extra=ids(session=session.id))
        connection.close(WSCloseCode.TRY_AGAIN_LATER, "the results can't be read now: resume")
    else:
        _log.error("a session could not go on", exc_info=error, extra=ids(session=session.id))
        connection.close(CloseCode.INTERNAL, "internal error: resume")
