"""Admission of connections: token, limits, resume token and position are checked before an upgrade or a stream."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable
from functools import partial

from aiohttp import web
from confluent_kafka import KafkaException

from podpair.gateway.auth.identity import Identity, KeysUnavailable, Unauthorized
from podpair.gateway.auth.resume import Resumed
from podpair.gateway.components import Components
from podpair.gateway.core.positions import InvalidPosition, Position
from podpair.gateway.core.protocol import Code, RouteName
from podpair.gateway.core.quotas import Bucket, Grant, Limit, Limited
from podpair.gateway.core.session_ids import user_key
from podpair.gateway.core.takeovers import Hold
from podpair.gateway.core.wires import JsonWire, Wire
from podpair.gateway.http.errors import refusal
from podpair.gateway.kafka.clients import description_of
from podpair.gateway.kafka.results import PartitionLease
from podpair.gateway.service import Service
from podpair.gateway.sessions.connection import Close, Connection
from podpair.gateway.sessions.malformed_records import MalformedRecords
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_BEARER_PROTOCOL = "bearer."
_QUIET = 10.0  # seconds between log records about the same error


@dataclasses.dataclass(frozen=True, slots=True)
class Visitor:
    """A client that may connect, and its session."""

    components: Components
    identity: Identity
    session: str
    hold: Hold
    resumed: bool
    position: Position | None
    foreign: bool  # the position belongs to another session: this one is new
    requests_epoch: str | None  # of the requests topic, from its resume token
    subscribe: tuple[str, ...] = ()  # channels that it names, with positions


class Refused(Exception):
    """A rejection, and its HTTP response on /v1."""

    def __init__(self, status: int, code: Code, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after  # seconds
        self.response = refusal(status, code, message, retry_after=retry_after)


class Admission:
    """Checks requests; its methods raise Refused."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config
        self._verifier = service.verifier
        self._tokens = service.tokens
        self._metrics = service.metrics
        self._malformed = MalformedRecords(self._config.results.topic, service.metrics)
        rate, burst = self._config.limits.connects_per_second, self._config.limits.connects_burst
        self._quiet_until = 0.0  # by the service's clock: until then unreadable results are not logged again
        self._connects = Bucket(rate, burst, service.clock()) if rate is not None else None

    def components(self) -> Components:
        """Return the running components. Refuses while the gateway starts or drains."""
        components = self._service.components
        if self._service.draining:
            raise self.refuse(503, Code.OVERLOADED, "the gateway is leaving: go to another", retry_after=1)
        if components is None:
            raise self.refuse(503, Code.OVERLOADED, "the gateway is starting: try again", retry_after=2)
        return components

    async def visitor(self, request: web.Request, *, position: str | None, resume: str | None) -> Visitor:
        """Return the client and its session: that of the token, that of the resume token, or a new one."""
        components = self.components()
        limit = self._config.limits.sessions
        if components.sessions.registry.connected >= limit:
            raise self.refuse(
                503,
                Code.OVERLOADED,
                f"{limit} sessions are connected (limits.sessions)",
                retry_after=5,
                reason="sessions",
            )
        self._check_results(components)
        identity = await self.identity(request)
        try:
            place = Position.parse(position) if position else None
        except InvalidPosition as error:
            raise self.refuse(400, Code.INVALID, str(error)) from None
        requests_epoch = None
        if resume:
            session, before, requests_epoch = self.opened(resume, identity)
            hold = components.sessions.takeovers.hold(before, shared=True)
        elif identity.session is not None:
            session, hold = identity.session, components.sessions.takeovers.hold(shared=True)
        else:  # no other gateway can have it
            session, hold = components.sessions.registry.mint(), components.sessions.takeovers.hold(shared=False)
        self.check_owner(components, session, identity)
        grant = self.grant(identity)
        if grant is not None:
            try:
                grant.connect(session)
            except Limited as fault:
                raise self.limited(fault) from None
        # Last: a client that is refused for another reason, above all for its token, takes no place from others.
        if self._connects is not None and (wait := self._connects.acquire(self._service.clock())):
            message = "too many connect at once (limits.connects_per_second)"
            raise self.refuse(503, Code.OVERLOADED, message, retry_after=wait, reason="connects")
        await self._learn_epoch(components, place)
        return Visitor(
            components, identity, session, hold, resumed=bool(resume), position=place,
            foreign=not resume and identity.session is None, requests_epoch=requests_epoch,
            subscribe=tuple(request.query.getall("subscribe", ())),
        )  # fmt: skip

    def _check_results(self, components: Components) -> None:
        results = self._config.results.topic
        if components.kafka.topic_watch.state[results] is None:
            raise self.refuse(503, Code.OVERLOADED, f"topic {results} is missing: it was deleted", retry_after=2)

    async def _learn_epoch(self, components: Components, position: Position | None) -> None:
        """Refresh the topics if the client's position is of an epoch that this gateway doesn't know.

        Another gateway may have noticed a change sooner: with the former epoch the client would get records twice.
        """
        homes = components.homes
        if position is None or position.epoch == homes.epoch or position.epoch in homes.siblings:
            return
        await components.kafka.topic_watch.refresh()
        self._check_results(components)

    def check_owner(self, components: Components, session_id: str, identity: Identity) -> None:
        """Refuse a session that is here and belongs to another user."""
        session = components.sessions.registry.sessions.get(session_id.encode())
        if session is not None and session.subject != identity.subject:
            raise self.refuse(401, Code.UNAUTHORIZED, "the session is another user's")

    async def acquire_homes(
        self, components: Components, session_id: str, subject: str | None = None
    ) -> Callable[[], None]:
        """Have the home of a session, and with `results.users` its user's, read until the returned function is called."""
        keys = [session_id]
        if subject is not None and self._config.results.users:
            keys.append(user_key(subject))
        held: list[PartitionLease] = []
        try:
            while len(held) < len(keys):
                held.append(await components.kafka.reader.acquire(keys[len(held)]))
        except KafkaException as error:
            self._tell_of(error)
            message = f"the results can't be read now: {description_of(error.args[0])}"
            raise self.refuse(503, Code.OVERLOADED, message, retry_after=2) from None
        finally:
            if len(held) < len(keys):
                _release(held)
        return partial(_release, held)

    def _tell_of(self, error: KafkaException) -> None:
        """Log, at intervals, the details that clients don't get: every client that connects has the same error."""
        now = self._service.clock()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            _log.warning("clients are refused because the results can't be read: %s", error.args[0].str())

    def connect(
        self, visitor: Visitor, kind: str, transport: asyncio.WriteTransport, wire: Wire, close: Close
    ) -> tuple[Session, Connection]:
        """Attach a connection to the visitor's session: from now on the session's events go there."""
        components, identity = visitor.components, visitor.identity
        if isinstance(wire, JsonWire):
            wire.on_malformed = self._malformed.count
        connection = Connection(
            transport, wire, components.sessions.backpressure, self._config.sessions.buffer_bytes, close
        )
        session = components.sessions.registry.attach(
            visitor.session, identity.subject, connection, identity.expires_at, visitor.hold
        )
        components.sessions.registry.set_grant(session, self.grant(identity))
        self.set_access(components, session, identity)
        session.requests_epoch = visitor.requests_epoch
        self._metrics.opened.labels(kind, str(visitor.resumed).lower()).inc()
        return session, connection

    def set_access(self, components: Components, session: Session, identity: Identity) -> None:
        """Set what the token allows of channels and presence."""
        if components.channels is not None:
            components.channels.subscriptions.set_access(session, identity.claims)
        if components.presence is not None:
            components.presence.set_access(session, identity.claims)

    def grant(self, identity: Identity) -> Grant | None:
        """Return what the rules allow the bearer of this token."""
        return self._service.quotas.grant(identity.claims, self._service.clock())

    def admit(self, grant: Grant, model: str, route: RouteName) -> RouteName:
        """Count a request; return its route. Raises Limited or Forbidden."""
        return grant.admit(model, route, self._service.clock())

    def limited(self, fault: Limited) -> Refused:
        """Return the refusal of a connection by a limit."""
        wait = (fault.retry_after_ms or 0) / 1000
        return self.refuse(429, Code.OVERLOADED, fault.message, retry_after=wait, reason=fault.limit)

    def opened(self, resume_token: str, identity: Identity) -> Resumed:
        """Return the session that a resume token continues."""
        try:
            resumed = self._tokens.open(resume_token, identity.subject)
        except Unauthorized as error:
            raise self.refuse(401, Code.UNAUTHORIZED, str(error)) from None
        if identity.session is not None and identity.session != resumed.session:
            claim = self._config.auth.session_claim
            message = f"the resume token is for another session than the token's claim {claim} (auth.session_claim)"
            raise self.refuse(401, Code.UNAUTHORIZED, message)
        return resumed

    async def identity(self, request: web.Request) -> Identity:
        """Return the identity of the request's token."""
        try:
            return await self._verifier.verify(self._token(request))
        except Unauthorized as error:
            raise self.refuse(401, Code.UNAUTHORIZED, str(error)) from None
        except KeysUnavailable as error:
            raise self.refuse(503, Code.OVERLOADED, str(error), retry_after=10) from None

    def _token(self, request: web.Request) -> str | None:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and value:
            return value.strip()
        for protocol in offered_protocols(request):
            if protocol.startswith(_BEARER_PROTOCOL):
                return protocol.removeprefix(_BEARER_PROTOCOL)
        return request.query.get("token") if self._config.auth.query_token else None

    def refuse(
        self, status: int, code: Code, message: str, *, retry_after: float | None = None, reason: Limit | None = None
    ) -> Refused:
        """Return the refusal to raise, and count it: by the limit that is its reason, else by its code."""
        self._metrics.rejected.labels("connection", reason or code).inc()
        return Refused(status, code, message, retry_after)


def _release(held: Iterable[PartitionLease]) -> None:
    for hold in held:
        hold.release()


def offered_protocols(request: web.Request) -> list[str]:
    """Return the subprotocols that a WebSocket client offers."""
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    return [protocol.strip() for protocol in header.split(",") if protocol.strip()]
