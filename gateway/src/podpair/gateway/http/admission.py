"""Who is let in: origin, token, room, resume token and position are checked before anything is upgraded or streamed."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable

from aiohttp import web
from confluent_kafka import KafkaException

from podpair.gateway.auth.identity import Identity, KeysUnavailable, Unauthorized
from podpair.gateway.auth.origins import origin_allowed
from podpair.gateway.auth.resume import Resumed
from podpair.gateway.core.positions import InvalidPosition, Position
from podpair.gateway.core.protocol import RouteName
from podpair.gateway.core.quotas import Bucket, Forbidden, Grant, Limited
from podpair.gateway.core.takeovers import Hold
from podpair.gateway.core.wires import Wire
from podpair.gateway.http.errors import refusal
from podpair.gateway.kafka.clients import description_of
from podpair.gateway.service import Parts, Service
from podpair.gateway.sessions.connection import Close, Connection
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_BEARER_PROTOCOL = "bearer."
_QUIET = 10.0  # seconds between log records of the same trouble


@dataclasses.dataclass(frozen=True, slots=True)
class Visitor:
    """Someone who may connect, and the session that it is about."""

    parts: Parts
    identity: Identity
    session: str
    hold: Hold
    resumed: bool
    position: Position | None
    requests_epoch: str | None  # of the requests topic, as its resume token says


class Refused(Exception):
    """Why, and the answer that says so on /v1."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after  # seconds
        self.response = refusal(status, code, message, retry_after=retry_after)


class Admission:
    """Checks a request; raises Refused."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config
        self._verifier = service.verifier
        self._tokens = service.tokens
        self._metrics = service.metrics
        rate, burst = self._config.limits.connects_per_second, self._config.limits.connects_burst
        self._quiet_until = 0.0  # by the service's clock: until then nothing is logged of results that can't be read
        self._connects = Bucket(rate, burst, service.clock()) if rate is not None else None

    def parts(self) -> Parts:
        """The running service; refuses where it is not there yet, or leaves."""
        parts = self._service.parts
        if self._service.draining:
            raise self.refuse(503, "overloaded", "the gateway is leaving: go to another", retry_after=1)
        if parts is None:
            raise self.refuse(503, "overloaded", "the gateway is starting: try again", retry_after=2)
        return parts

    async def visitor(self, request: web.Request, *, position: str | None) -> Visitor:
        """Who connects, and to which session: the token's, the resume token's, or a new one."""
        parts = self.parts()
        limit = self._config.limits.sessions
        if parts.registry.connected >= limit:
            raise self.refuse(503, "overloaded", f"{limit} sessions are connected (limits.sessions)", retry_after=5)
        self._check_origin(request)
        self._check_results(parts)
        identity = await self.identity(request)
        try:
            place = Position.parse(position) if position else None
        except InvalidPosition as error:
            raise self.refuse(400, "invalid", str(error)) from None
        token = request.query.get("resume")
        requests_epoch = None
        if token:
            session, before, requests_epoch = self.opened(token, identity)
            hold = parts.takeovers.hold(before, shared=True)
        elif identity.session is not None:
            session, hold = identity.session, parts.takeovers.hold(shared=True)
        else:  # nobody else can have it
            session, hold = parts.registry.mint(), parts.takeovers.hold(shared=False)
        self.check_owner(parts, session, identity)
        grant = self.grant(identity)
        if grant is not None:
            try:
                grant.connect(session)
            except Limited as fault:
                raise self.limited(fault) from None
        # Last: whoever is refused for another reason, and above all for his token, takes no one's place.
        if self._connects is not None and (wait := self._connects.take(self._service.clock())):
            self._metrics.limited.labels("connects").inc()
            message = "too many connect at once (limits.connects_per_second)"
            raise self.refuse(503, "overloaded", message, retry_after=wait)
        await self._learn_epoch(parts, place)
        return Visitor(
            parts, identity, session, hold, resumed=bool(token), position=place, requests_epoch=requests_epoch
        )

    def _check_results(self, parts: Parts) -> None:
        results = self._config.results.topic
        if parts.topic_watch.state[results] is None:
            raise self.refuse(503, "overloaded", f"topic {results} is missing: it was deleted", retry_after=2)

    async def _learn_epoch(self, parts: Parts, position: Position | None) -> None:
        """Look at the topics where a client comes from an epoch that this gateway doesn't know.

        Another gateway may have seen a change sooner: the epoch before would give the client twice what it had in it.
        """
        homes = parts.homes
        if position is None or position.epoch == homes.epoch or position.epoch in homes.siblings:
            return
        await parts.topic_watch.refresh()
        self._check_results(parts)

    def check_owner(self, parts: Parts, session_id: str, identity: Identity) -> None:
        """A session that is here must be this user's."""
        session = parts.registry.sessions.get(session_id.encode())
        if session is not None and session.subject != identity.subject:
            raise self.refuse(401, "unauthorized", "the session is another user's")

    async def hold(self, parts: Parts, session_id: str) -> Callable[[], None]:
        """Have the home partition of a session read, until what is returned is called."""
        try:
            hold = await parts.reader.hold(session_id)
        except KafkaException as error:
            self._tell_of(error)
            message = f"the results can't be read now: {description_of(error.args[0])}"
            raise self.refuse(503, "overloaded", message, retry_after=2) from None
        return hold.release

    def _tell_of(self, error: KafkaException) -> None:
        """Log what clients aren't told, now and then: every client that connects meanwhile meets the same."""
        now = self._service.clock()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            _log.warning("clients are refused, for the results can't be read: %s", error.args[0].str())

    def connect(
        self, visitor: Visitor, kind: str, transport: asyncio.WriteTransport, wire: Wire, close: Close
    ) -> tuple[Session, Connection]:
        """The visitor's connection is made: from now on its session's events go there."""
        parts, identity = visitor.parts, visitor.identity
        connection = Connection(transport, wire, parts.pacer, self._config.sessions.buffer_bytes, close)
        session = parts.registry.attach(
            visitor.session, identity.subject, connection, identity.expires_at, visitor.hold
        )
        parts.registry.granted(session, self.grant(identity))
        session.requests_epoch = visitor.requests_epoch
        self._metrics.opened.labels(kind, str(visitor.resumed).lower()).inc()
        return session, connection

    def grant(self, identity: Identity) -> Grant | None:
        """What the rules allow the bearer of this token."""
        return self._service.quotas.grant(identity.claims, self._service.clock())

    def admit(self, grant: Grant, model: str, route: RouteName) -> RouteName:
        """The route for one request more. Raises Limited or Forbidden."""
        try:
            return grant.admit(model, route, self._service.clock())
        except (Limited, Forbidden) as fault:
            self._metrics.limited.labels(fault.limit).inc()
            raise

    def limited(self, fault: Limited) -> Refused:
        """The refusal of a connection by a limit."""
        self._metrics.limited.labels(fault.limit).inc()
        return self.refuse(429, "overloaded", fault.message, retry_after=(fault.retry_after_ms or 0) / 1000)

    def opened(self, resume_token: str, identity: Identity) -> Resumed:
        """What a resume token continues."""
        try:
            resumed = self._tokens.open(resume_token, identity.subject)
        except Unauthorized as error:
            raise self.refuse(401, "unauthorized", str(error)) from None
        if identity.session is not None and identity.session != resumed.session:
            claim = self._config.auth.session_claim
            message = f"the resume token is for another session than the token's claim {claim} (auth.session_claim)"
            raise self.refuse(401, "unauthorized", message)
        return resumed

    async def identity(self, request: web.Request) -> Identity:
        """Whose token the request carries."""
        try:
            return await self._verifier.verify(self._token(request))
        except Unauthorized as error:
            raise self.refuse(401, "unauthorized", str(error)) from None
        except KeysUnavailable as error:
            raise self.refuse(503, "overloaded", str(error), retry_after=10) from None

    def _token(self, request: web.Request) -> str | None:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and value:
            return value.strip()
        for protocol in offered_protocols(request):
            if protocol.startswith(_BEARER_PROTOCOL):
                return protocol.removeprefix(_BEARER_PROTOCOL)
        return request.query.get("token") if self._config.auth.query_token else None

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get("Origin")
        if not origin_allowed(origin, request.host, self._config.http.origins):
            raise self.refuse(403, "forbidden", f"origin {origin!r} is not allowed (http.origins)")

    def refuse(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> Refused:
        """The refusal to raise."""
        self._metrics.refused.labels(code).inc()
        return Refused(status, code, message, retry_after)


def offered_protocols(request: web.Request) -> list[str]:
    """The subprotocols that a WebSocket client offers."""
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    return [protocol.strip() for protocol in header.split(",") if protocol.strip()]
