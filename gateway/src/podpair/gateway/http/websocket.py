"""GET /v1/ws: a session over a WebSocket."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import WebSocketWriter
from aiohttp.web_request import BaseRequest
from confluent_kafka import KafkaException

from podpair.gateway.auth.identity import KeysUnavailable, Unauthorized
from podpair.gateway.core.frames import close_frame
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
from podpair.gateway.logs import ids
from podpair.gateway.service import Parts, Service
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.dispatch import Duplicate
from podpair.gateway.sessions.registry import NotYours
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
JSON, RAW = "podpair.v1", "podpair.v1.raw"
_CLOSING = 5.0  # seconds that a client may take to answer a close frame
_LOOK = 0.02  # seconds between looks at a client that was turned away
_CHUNK = 1 << 16  # bytes of unread frames, twice this is when a client has to wait


Take = Callable[[str | bytes], bool]


class WebSocketEdge:
    """Upgrades, reads frames, closes; what a frame asks for is the dispatcher's."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self._service = service
        self._admission = admission

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The handler of the route."""
        try:
            visitor = await self._admission.visitor(request, position=request.query.get("position"))
            protocol = self._choose(request)
            async with self._admission.home(visitor):
                return await self._serve(request, visitor, protocol)
        except Refused as refused:
            return refused.response

    def _choose(self, request: web.Request) -> str:
        offered = [p for p in offered_protocols(request) if not p.startswith("bearer.")]
        protocol = next((p for p in offered if p in (JSON, RAW)), None if offered else JSON)
        if protocol is None:
            message = f"subprotocol {offered[0]!r} is not known: offer {JSON} or {RAW}"
            raise self._admission.refuse(400, "invalid", message)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise self._admission.refuse(426, "invalid", "this address takes WebSocket upgrades")
        return protocol

    async def _serve(self, request: web.Request, visitor: Visitor, protocol: str) -> web.StreamResponse:
        parts = visitor.parts
        config, metrics = self._service.config, self._service.metrics
        socket = _Socket(
            protocols=(JSON, RAW),
            heartbeat=config.sessions.heartbeat_seconds,
            timeout=_CLOSING,
            compress=False,  # frames are written many to one call, beside aiohttp's writer
            max_msg_size=config.limits.message_bytes + 1,  # the least that aiohttp refuses
        )
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket

        ending: asyncio.Task[None] | None = None

        def close(code: int, reason: str) -> None:
            nonlocal ending
            metrics.closed.labels(closing_reason(code)).inc()
            if code == CloseCode.TOO_LARGE:
                _turn_away(transport, code, reason)
            else:
                ending = asyncio.create_task(_end(socket, transport, code, reason))

        wire = RawWire() if protocol == RAW else JsonWire(parts.joining.prefix(parts.home(visitor.session)))
        kind = "raw" if protocol == RAW else "websocket"
        try:
            session, connection = self._admission.connect(visitor, kind, transport, wire, close)
        except NotYours as error:  # that user came while this one was let in
            await _end(socket, transport, WSCloseCode.POLICY_VIOLATION, str(error))
            return socket
        too_large = f"a frame is larger than {config.limits.message_bytes} bytes (limits.message_bytes)"
        socket.on_too_large = lambda: connection.close(CloseCode.TOO_LARGE, too_large)
        _log.debug("connected", extra=ids(session=session.id, subject=session.subject))
        catching_up: asyncio.Task[None] | None = None
        try:
            start = await parts.joining.begin(session, connection, resumed=visitor.resumed, position=visitor.position)
            if protocol == JSON:
                socket.take_frames(self._taker(parts, session, connection))
            catching_up = asyncio.create_task(self._catch_up(parts, session, connection, start))
            await self._read(socket, parts, session, connection, protocol)
        except KafkaException as error:
            _cannot_read(session, connection, error)
        finally:
            if catching_up is not None:
                catching_up.cancel()
            if not connection.closing:
                metrics.closed.labels("client").inc()
            parts.registry.detach(session, connection)
            _log.debug("disconnected", extra=ids(session=session.id, code=socket.close_code))
            if ending is not None:
                await asyncio.wait((ending,))  # aiohttp would end it with a code of its own
        return socket

    async def _catch_up(self, parts: Parts, session: Session, connection: Connection, start: int) -> None:
        try:
            await parts.joining.catch_up(session, connection, start)
        except KafkaException as error:
            _cannot_read(session, connection, error)

    def _taker(self, parts: Parts, session: Session, connection: Connection) -> Take:
        """Takes frames as they are parsed, which is most of them: no task is woken for a request."""
        dispatcher, clock = parts.dispatcher, self._service.clock
        models = dispatcher.models
        rows = True  # the last request was a row of numbers: so will be the next

        def take(frame: str | bytes) -> bool:
            nonlocal rows
            if session.connection is not connection or connection.closing:
                return False
            session.active = clock()
            try:
                message = decode_row(frame, models) if rows else None
                if message is not None:
                    self._infer(parts, session, message)
                    return True
                other = decode(frame)
                if isinstance(other, Refresh):
                    return False  # that takes a while: the frames behind it wait their turn
                rows = isinstance(other, Infer) and bytes(other.data).startswith(b"[")
                self._message(parts, session, other)
            except InvalidFrame as error:
                self._invalid(session, error)
            except Exception:
                _log.exception("a frame failed", extra=ids(session=session.id))
                connection.close(CloseCode.INTERNAL, "internal error: resume")
            return True

        return take

    async def _read(
        self, socket: "_Socket", parts: Parts, session: Session, connection: Connection, protocol: str
    ) -> None:
        async for message in socket:
            session.active = self._service.clock()
            if message.type is WSMsgType.ERROR or session.connection is not connection:
                return
            if protocol == RAW:
                connection.close(CloseCode.UNSUPPORTED, f"{RAW} is receive only")
                return
            try:
                found = decode(message.data)
                if isinstance(found, Refresh):
                    with socket.working():
                        await self._refresh(parts, session, found.token)
                else:
                    self._message(parts, session, found)
            except InvalidFrame as error:
                self._invalid(session, error)

    def _message(self, parts: Parts, session: Session, message: Infer | Cancel) -> None:
        if isinstance(message, Cancel):
            parts.dispatcher.cancel(session, message.id)
        else:
            self._infer(parts, session, message)

    def _infer(self, parts: Parts, session: Session, message: Infer | InferRow) -> None:
        try:
            if session.grant is not None:
                route = self._admission.admit(session.grant, message.model, message.route)
                if route != message.route:
                    message = msgspec.structs.replace(message, route=route)
            parts.dispatcher.infer(session, message)
        except Duplicate as fault:
            _refuse(session, fault, None)
        except Fault as fault:
            self._service.metrics.refused.labels(fault.code).inc()
            _refuse(session, fault, message.id)

    def _invalid(self, session: Session, error: InvalidFrame) -> None:
        self._service.metrics.frames.inc()
        _refuse(session, Fault(Code.INVALID, error.message), error.id)

    async def _refresh(self, parts: Parts, session: Session, token: str) -> None:
        try:
            identity = await self._service.verifier.verify(token)
            if identity.subject != session.subject:
                raise Unauthorized("the new token is another user's")
            if identity.session is not None and identity.session != session.id:
                raise Unauthorized("the new token is for another session (claim sid)")
        except Unauthorized as error:
            self._service.metrics.refreshed.labels("refused").inc()
            _refuse(session, Fault(Code.UNAUTHORIZED, str(error)), None)
            return
        except KeysUnavailable as error:
            _refuse(session, Fault(Code.OVERLOADED, str(error), retry_after_ms=10_000), None)
            return
        self._service.metrics.refreshed.labels("taken").inc()
        parts.registry.refreshed(session, identity.expires_at)
        parts.registry.granted(session, self._admission.grant(identity))
        welcome = parts.joining.welcome(session, resumed=True, offset=session.seen)
        session.send(control_event("welcome", welcome))


class _Frames(WebSocketDataQueue):
    """aiohttp's queue between its parser and its reader, past which frames can be taken in the order of their arrival.

    What is not taken goes the usual way: pings, closes, whatever stands behind a frame that is still worked on.
    """

    take: Take | None = None
    working = False  # a frame that went the usual way is worked on

    def feed_data(self, data: Any, size: int) -> None:
        take = self.take
        if take is None or data[0] is not WSMsgType.TEXT or self._buffer or self.working or not take(data[1]):
            super().feed_data(data, size)


class _Socket(web.WebSocketResponse):
    """aiohttp ends a connection in the middle of a frame that is too large, and the client, which still writes, reads a
    reset instead of the close code. This one is first turned away in peace.

    And it gives frames to `take_frames` without its reader: to wake a task for each costs more than a request does.
    """

    on_too_large: Callable[[], None] | None = None
    frames: _Frames | None = None

    def take_frames(self, take: Take) -> None:
        """From now on text frames go to `take` as they arrive, but for those that it does not take."""
        if self.frames is not None:
            self.frames.take = take

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a frame is worked on those behind it wait."""
        if self.frames is None:
            yield
            return
        self.frames.working = True
        try:
            yield
        finally:
            self.frames.working = False

    def _post_start(self, request: BaseRequest, protocol: str | None, writer: WebSocketWriter) -> None:
        """aiohttp 3.14's own, with another queue."""
        self._ws_protocol = protocol
        self._writer = writer
        self._reset_heartbeat()
        assert self._loop is not None  # noqa: S101 - it is prepared
        self._reader = self.frames = _Frames(cast("BaseProtocol", request.protocol), _CHUNK, loop=self._loop)
        self._parser = WebSocketReader(self._reader, self._max_msg_size, compress=False, decode_text=True)
        heard = None if self._heartbeat is None else self._on_data_received
        request.protocol.set_parser(self._parser, data_received_cb=heard)
        request.protocol.keep_alive(False)  # it is no HTTP connection any more

    async def pong(self, message: bytes = b"") -> None:
        """A ping that came with the end of the wire can't be answered: its reader sees the end next."""
        with suppress(ConnectionError):
            await super().pong(message)

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG and self.on_too_large is not None:
            self.on_too_large()
            await self._until_gone()
        return await super().close(code=code, message=message, drain=drain)

    async def _until_gone(self) -> None:
        """What the client still sends is read, and dropped, until it has closed its end."""
        for _ in range(int(_CLOSING / _LOOK)):
            if self._req is None or self._req.transport is None:
                return
            await asyncio.sleep(_LOOK)


def _turn_away(transport: asyncio.Transport, code: int, reason: str) -> None:
    """The last that is written: a close frame, and the end."""
    transport.write(close_frame(code, reason))
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()  # TLS has no half of an end: what is written goes out before it


def _refuse(session: Session, fault: Fault, request_id: str | None) -> None:
    """An error event. For an id that is open it must not look like that request's end, so it has none."""
    if request_id is None or session.ledger.get(request_id) is not None:
        session.send(control_event("error", error_event(fault, None)))
    else:
        session.send(Event(Kind.TERMINAL, "error", request_id, error_event(fault, request_id), -1))


def _cannot_read(session: Session, connection: Connection, error: KafkaException) -> None:
    _log.error("the results can't be read: %s", error, extra=ids(session=session.id))
    connection.close(WSCloseCode.TRY_AGAIN_LATER, "the results can't be read now: resume")


async def _end(socket: web.WebSocketResponse, transport: asyncio.Transport, code: int, reason: str) -> None:
    """Send a close frame, and end the connection even where its client takes nothing any more."""
    try:
        async with asyncio.timeout(2 * _CLOSING):
            await socket.close(code=code, message=reason.encode())
    except TimeoutError:
        _log.debug("a client did not take its close frame")
    finally:
        transport.abort()
