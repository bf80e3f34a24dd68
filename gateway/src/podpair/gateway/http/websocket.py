"""GET /v1/ws: a session over a WebSocket."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec
from aiohttp import WSCloseCode, web
from confluent_kafka import KafkaException

from podpair.common.listener.connections import counts_as_session
from podpair.common.logs import ids
from podpair.gateway.auth.identity import KeysUnavailable, Unauthorized
from podpair.gateway.core.handshake import VERSION, InvalidHandshake, switching_protocols
from podpair.gateway.core.protocol import (
    AskPresence,
    Cancel,
    ChannelMessage,
    CloseCode,
    Code,
    Fault,
    Infer,
    InferRow,
    InvalidFrame,
    Refresh,
    Signal,
    closing_reason,
    decode,
    decode_row,
    error_event,
)
from podpair.gateway.core.records import Event, Kind, control_event
from podpair.gateway.core.wires import JsonWire, RawWire
from podpair.gateway.http.admission import Admission, Refused, Visitor, offered_protocols
from podpair.gateway.http.channels import ChannelFrames
from podpair.gateway.http.presence import answer_presence
from podpair.gateway.http.ws_protocol import (
    DetachedResponse,
    Heartbeats,
    Message,
    StreamCallbacks,
    WebSocketStream,
    detach_transport,
)
from podpair.gateway.service import Service
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.idempotency import Duplicate
from podpair.gateway.sessions.registry import NotOwner
from podpair.gateway.sessions.resume import ResumePoint
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
JSON, RAW = "podpair.v1", "podpair.v1.raw"
_MINUTE = 60.0


class WebSocketEdge:
    """Admits clients; the state of each connection is in `_Client`."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self.service = service
        self.admission = admission
        self.channels = ChannelFrames()
        self.heartbeats = Heartbeats(service.config.sessions.heartbeat_seconds)
        self.refreshing: set[asyncio.Task[None]] = set()
        service.metrics.connections.labels("websocket").set_function(lambda: len(self.heartbeats))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle GET /v1/ws."""
        try:
            query = request.query
            visitor = await self.admission.visitor(request, position=query.get("position"), resume=query.get("resume"))
            protocol = self._choose(request)
            answer = self._handshake(request, protocol)
            counts_as_session(request, True)
            release = await self.admission.acquire_homes(visitor.components, visitor.session, visitor.identity.subject)
        except Refused as refused:
            counts_as_session(request, False)
            return refused.response
        taken = detach_transport(request)
        if taken is None:
            release()
            return DetachedResponse()
        transport, behind = taken
        client = _Client(self, visitor, transport, protocol, release)
        transport.set_protocol(client.stream)
        transport.write(answer)
        client.stream.data_received(behind)
        await client.begin(visitor, protocol)
        return DetachedResponse()

    def _choose(self, request: web.Request) -> str:
        """Return the subprotocol: one of those offered, if any are (RFC 6455, 4.1: else the client would fail)."""
        offered = offered_protocols(request)
        protocol = next((p for p in offered if p in (JSON, RAW)), None if offered else JSON)
        if protocol is None:
            others = [p for p in offered if not p.startswith("bearer.")]
            known = f"offer {JSON} or {RAW}"
            message = (
                f"subprotocol {others[0][:64]!r} is not known: {known}"
                if others
                else f"besides bearer.<token> {known}, too"
            )
            raise self.admission.refuse(400, Code.INVALID, message)
        return protocol

    def _handshake(self, request: web.Request, protocol: str) -> bytes:
        offered = protocol if protocol in offered_protocols(request) else None
        try:
            return switching_protocols(request.headers.items(), offered, request.version[:2])
        except InvalidHandshake as error:
            refused = self.admission.refuse(error.status, Code.INVALID, str(error))
            if error.status == 426:
                refused.response.headers.update(
                    {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": VERSION}
                )
            raise refused from None


class _Client:
    """One connection of a session; its frames go to the dispatcher."""

    __slots__ = (
        "_catching_up",
        "_components",
        "_connection",
        "_edge",
        "_invalid",
        "_plain",
        "_release",
        "_rows",
        "_session",
        "_since",
        "stream",
    )

    def __init__(
        self,
        edge: WebSocketEdge,
        visitor: Visitor,
        transport: asyncio.Transport,
        protocol: str,
        release: Callable[[], None],
    ) -> None:
        self._edge = edge
        self._components = visitor.components
        self._release = release
        # Whether the last request was a row of numbers, which is decoded at once: the next one is likely to be. For the queue
        # rows stay encoded: to encode numbers again costs more than everything else there.
        self._rows = True
        self._plain = (
            True  # whether the last one asked for nothing else, so that the next ones are likely to be begun at once
        )
        self._invalid = 0  # invalid frames since `_since` (by the service's clock)
        self._since = 0.0
        self._catching_up: asyncio.Task[None] | None = None
        self._session: Session | None = None  # set once the connection is attached
        self._connection: Connection | None = None
        self.stream = WebSocketStream(
            transport,
            edge.heartbeats,
            most=edge.service.config.limits.message_bytes,
            callbacks=StreamCallbacks(
                on_message=self._binary if protocol == JSON else self._unsupported,
                on_lost=self._lost,
                on_broken=self._broken,
                on_texts=self._texts if protocol == JSON else None,
            ),
        )

    async def begin(self, visitor: Visitor, protocol: str) -> None:
        """Attach the connection to its session, and welcome the client; then read its messages."""
        components, raw = self._components, protocol == RAW
        wire = RawWire() if raw else JsonWire()
        kind = "raw" if raw else "websocket"
        try:
            session, connection = self._edge.admission.connect(visitor, kind, self.stream.transport, wire, self._close)
        except NotOwner as error:  # its user connected while this client was admitted
            self.stream.close(WSCloseCode.POLICY_VIOLATION, str(error))
            self.stream.resume()
            return
        self._session, self._connection = session, connection
        _log.debug("connected", extra=ids(session=session.id, subject=session.subject))
        try:
            start = await components.sessions.resume.begin(
                session, connection, resumed=visitor.resumed, position=visitor.position, foreign=visitor.foreign
            )
        except Exception as error:
            _cannot_go_on(session, connection, error)
        else:
            task = self._catching_up = asyncio.create_task(self._catch_up(session, connection, start))
            task.add_done_callback(self._caught_up)
            components.sessions.takeovers.announce(session, connection)
            if not raw:
                self._edge.channels.begin(visitor, session, connection)
        self.stream.resume()

    async def _catch_up(self, session: Session, connection: Connection, start: ResumePoint) -> None:
        try:
            await self._components.sessions.resume.catch_up_session(session, connection, start)
        except Exception as error:
            _cannot_go_on(session, connection, error)

    def _caught_up(self, _: asyncio.Task[None]) -> None:
        self._catching_up = None

    def _close(self, code: int, reason: str) -> None:
        """Close the stream: the session's end of the connection is closed."""
        self._edge.service.metrics.closed.labels(closing_reason(code)).inc()
        self.stream.close(code, reason)

    def _broken(self, code: int, reason: str) -> None:
        self._components.sessions.dispatcher.flush()  # what came before is handled
        if code == CloseCode.TOO_LARGE:
            most = self._edge.service.config.limits.message_bytes
            reason = f"a frame is larger than {most} bytes (limits.message_bytes)"
        if self._connection is not None:
            self._connection.close(code, reason)
        self.stream.close(code, reason)

    def _lost(self) -> None:
        self._components.sessions.dispatcher.flush()
        session, connection = self._session, self._connection
        if self._catching_up is not None:
            self._catching_up.cancel()
        if session is not None and connection is not None:
            if not connection.closing:
                self._edge.service.metrics.closed.labels("client").inc()
            self._components.sessions.registry.detach(session, connection)
            _log.debug("disconnected", extra=ids(session=session.id, code=self.stream.close_code))
        self._session = self._connection = None
        self._release()

    def _unsupported(self, _: Message) -> None:
        if self._connection is not None:
            self._connection.close(CloseCode.UNSUPPORTED, f"{RAW} is receive only")

    def _texts(self, texts: Sequence[str]) -> None:
        """Handle messages that were read together."""
        dispatcher = self._components.sessions.dispatcher
        if (
            self._plain
            and (session := self._attached()) is not None
            and dispatcher.infer_soon(session, texts, self._rest)
        ):
            session.active = self._edge.service.clock()
            return
        dispatcher.flush()
        self._rest(texts)

    def _rest(self, texts: Sequence[Message]) -> None:
        """Handle messages one by one; those behind one that pauses the stream wait there."""
        for taken, text in enumerate(texts):
            if self.stream.paused:
                self.stream.hold(texts[taken:])
                return
            self._message(text)

    def _binary(self, frame: Message) -> None:
        """Handle a message behind those that were read before."""
        self._components.sessions.dispatcher.flush()
        self._rest((frame,))

    def _attached(self) -> Session | None:
        """Return the session, unless it has another connection now, or this one is being closed."""
        session, connection = self._session, self._connection
        if session is None or connection is None or session.connection is not connection or connection.closing:
            return None
        return session

    def _message(self, frame: Message) -> None:
        """Handle a message of the client. Whatever it contains, it affects only its own connection."""
        session, connection = self._attached(), self._connection
        if session is None or connection is None:
            return
        session.active = self._edge.service.clock()
        self._plain = False
        try:
            row = decode_row(frame, self._components.sessions.dispatcher.models) if self._rows else None
            if row is not None:
                self._rows = row.route != "queue"
                self._plain = row.plain and session.grant is None
                self._infer(session, row)
                return
            message = decode(frame)
            self._rows = (
                isinstance(message, Infer) and message.route != "queue" and bytes(message.data).startswith(b"[")
            )
            if isinstance(message, Infer):
                self._infer(session, message)
            elif isinstance(message, Cancel):
                self._components.sessions.dispatcher.cancel(session, message.id)
            elif isinstance(message, Signal):
                self._components.sessions.dispatcher.signal(session, message)
            elif isinstance(message, ChannelMessage):
                self._edge.channels.handle(self._components.channels, session, connection, message)
            elif isinstance(message, AskPresence):
                answer_presence(self._components.presence, session, connection, message)
            else:
                self.stream.pause()  # that takes a while: the frames behind it wait
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
        """Count an invalid frame: too many in a minute close the connection."""
        now = self._edge.service.clock()
        if now - self._since > _MINUTE:
            self._invalid, self._since = 0, now
        self._invalid += 1
        most = self._edge.service.config.limits.invalid_frames
        if self._invalid > most:
            connection.close(CloseCode.POLICY, f"more than {most} invalid frames in a minute (limits.invalid_frames)")

    def _infer(self, session: Session, message: Infer | InferRow) -> None:
        try:
            # A request in flight is counted already: a retry after a reconnect is free.
            if session.grant is not None and session.ledger.get(message.id) is None:
                route = self._edge.admission.admit(session.grant, message.model, message.route)
                if route != message.route:
                    message = msgspec.structs.replace(message, route=route)
            self._components.sessions.dispatcher.infer(session, message, session.grant)
        except Duplicate as fault:
            _refuse(session, fault, None)
        except Fault as fault:
            self._edge.service.metrics.reject("request", fault)
            _refuse(session, fault, message.id)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._edge.refreshing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a token could not be refreshed", exc_info=error)
        self.stream.resume()

    async def _refresh(self, session: Session, message: Refresh) -> None:
        service, components = self._edge.service, self._components
        try:
            identity = await service.verifier.verify(message.token)
            if identity.subject != session.subject:
                raise Unauthorized("the new token is another user's")
            if identity.session is not None and identity.session != session.id:
                claim = service.config.auth.session_claim
                raise Unauthorized(f"the new token is for another session (claim {claim})")
        except Unauthorized as error:
            service.metrics.refreshed.labels("rejected").inc()
            _refuse(session, Fault(Code.UNAUTHORIZED, str(error)), None)
            if session.connection is self._connection and self._connection is not None:
                self._count_invalid(self._connection)
            return
        except KeysUnavailable as error:
            _refuse(session, Fault(Code.OVERLOADED, str(error), retry_after_ms=10_000), None)
            return
        if session.connection is not self._connection:
            return
        service.metrics.refreshed.labels("accepted").inc()
        components.sessions.registry.set_expiry(session, identity.expires_at)
        components.sessions.registry.set_grant(session, self._edge.admission.grant(identity))
        self._edge.admission.set_access(components, session, identity)
        welcome = components.sessions.resume.welcome(session, resumed=True)
        session.send(control_event("welcome", welcome))


def _refuse(session: Session, fault: Fault, request_id: str | None) -> None:
    """Send an error event. For an open id it has no id, so that it is not taken for the end of that request."""
    if request_id is None or session.ledger.get(request_id) is not None:
        session.send(control_event("error", error_event(fault, None)))
    else:
        session.send(Event(Kind.TERMINAL, "error", request_id, error_event(fault, request_id), -1))


def _cannot_go_on(session: Session, connection: Connection, error: Exception) -> None:
    """Close a connection whose records can't be read; ignore the error if the client is gone."""
    if not connection.open:
        return
    if isinstance(error, KafkaException):
        _log.error("the results can't be read: %s", error, extra=ids(session=session.id))
        connection.close(WSCloseCode.TRY_AGAIN_LATER, "the results can't be read now: resume")
    else:
        _log.error("a session could not be resumed", exc_info=error, extra=ids(session=session.id))
        connection.close(CloseCode.INTERNAL, "internal error: resume")
