"""Subscribes sessions to channels (`channels.enabled`).

Invariant: from the position that a client names on, or from `subscribed`, it gets each publication once and in order, or a gap
that covers it. A subscription that is refused, or can't be read, is reported, never silent.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from podpair.common.gateway_config.model import Config
from podpair.common.logs import ids
from podpair.gateway.core.channels import ChannelAccess, parse_wanted
from podpair.gateway.core.positions import InvalidPosition, Position
from podpair.gateway.core.protocol import CloseCode, Code, Fault, Subscribe, event
from podpair.gateway.core.records import control_event
from podpair.gateway.kafka.log_reader import ResultsLog
from podpair.gateway.kafka.producer import RecordProducer
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.publisher import Publisher, key_of
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.resume import ResumeService
from podpair.gateway.sessions.session import Session
from podpair.gateway.sessions.subscription import Channel, Subscription
from podpair.gateway.sessions.subscription_resume import SubscriptionResume
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)


class Subscriptions:
    """The subscriptions of this gateway's sessions. channels: by key, shared with the fan-out.

    refresh: has the topics looked at, for a position of an epoch that this gateway doesn't know.
    """

    def __init__(
        self,
        config: Config,
        log: ResultsLog,
        channels: dict[bytes, Channel],
        resume: SubscriptionResume,
        refresh: Callable[[], Awaitable[object]],
        metrics: Metrics,
    ) -> None:
        self._config = config.channels
        self._homes = log.homes
        self._reader = log.reader
        self._channels = channels
        self._resume = resume
        self._refresh = refresh
        self._count = metrics.channel_subscriptions
        self._tasks = Tasks()
        metrics.channels.set_function(lambda: len(channels))

    def access(self, claims: Mapping[str, Any]) -> ChannelAccess:
        """Return what a token with these claims may do."""
        return ChannelAccess(self._config.rules, claims)

    def begin(self, session: Session, connection: Connection, wanted: Iterable[str]) -> None:
        """Subscribe a connection to what its address names (`<channel>` or `<channel>~<position>`), and to automatic channels."""
        named = {one.channel: one for one in map(parse_wanted, wanted)}
        for channel in self._config.automatic:
            named.setdefault(channel, Subscribe(channel))
        for one in named.values():
            self.subscribe(session, connection, one)

    def subscribe(self, session: Session, connection: Connection, message: Subscribe) -> None:
        """Subscribe a session. The client hears `subscribed`, or an `error` with the channel; either has the message's id."""
        if session.connection is not connection:
            return
        channel = message.channel
        try:
            place = self._check(session, channel, message.position)
        except Fault as fault:
            _refuse(session, message, fault)
            return
        if channel in session.subscriptions:
            self.unsubscribe(session, channel)  # anew, from where the client says
        key = key_of(channel)
        made = session.subscriptions[channel] = Subscription(message, self._homes.of(key), session, connection)
        self._channels.setdefault(made.key, Channel(key)).subscriptions.add(made)
        self._count.inc()
        self._tasks.spawn(self._start(made, connection, place))

    def _check(self, session: Session, channel: str, position: str | None) -> Position | None:
        key_of(channel)
        access = session.channel_access
        allowed = channel in self._config.automatic or (access is not None and access.may_subscribe(channel))
        if not allowed:
            raise Fault(Code.FORBIDDEN, f"this token may not subscribe to channel {channel} (channels.rules)")
        most = self._config.per_session
        if channel not in session.subscriptions and len(session.subscriptions) >= most:
            raise Fault(Code.OVERLOADED, f"{most} channels are subscribed to (channels.per_session)")
        try:
            return Position.parse(position) if position else None
        except InvalidPosition as error:
            raise Fault(Code.INVALID, str(error)) from None

    async def _start(self, made: Subscription, connection: Connection, position: Position | None) -> None:
        try:
            lease = await self._reader.acquire(made.id)
            if made.connection is not connection:
                lease.release()
                return
            made.lease = lease
            if (
                position is not None
                and position.epoch != self._homes.epoch
                and position.epoch not in self._homes.siblings
            ):
                await self._refresh()
            await self._resume.begin(made, connection, position)
        except KafkaException as error:
            if made.connection is connection and connection.open:
                about = ids(session=made.session.id)
                _log.error("channel %s can't be read: %s", made.channel, error.args[0].str(), extra=about)
                connection.close(CloseCode.TRY_AGAIN, "a channel can't be read now: resume")
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("subscribing to channel %s failed", made.channel, extra=ids(session=made.session.id))
            made.end(CloseCode.INTERNAL, "internal error: resume")

    def unsubscribe(self, session: Session, channel: str) -> bool:
        """End a subscription. Return False if there is none."""
        found = session.subscriptions.pop(channel, None)
        if found is None:
            return False
        found.live = False
        if found.lease is not None:
            found.lease.release()
        followed = self._channels[found.key]
        followed.subscriptions.discard(found)
        if not followed.subscriptions:
            del self._channels[found.key]
        self._count.dec()
        return True

    def leave(self, session: Session) -> None:
        """End all subscriptions of a session: its connection has ended."""
        for channel in list(session.subscriptions):
            self.unsubscribe(session, channel)

    def set_access(self, session: Session, claims: Mapping[str, Any]) -> None:
        """Set what the session's token, or a newer one, allows; subscriptions that it does not allow end."""
        session.channel_access = access = self.access(claims)
        for channel in list(session.subscriptions):
            if channel not in self._config.automatic and not access.may_subscribe(channel):
                self.unsubscribe(session, channel)
                session.send(control_event("unsubscribed", event("unsubscribed", channel=channel, reason="forbidden")))

    def topic_changed(self, *, widened: bool, before: str) -> None:
        """Move subscriptions to their homes in the results topic, which was replaced or `widened`. before: the former epoch."""
        self._resume.topic_changed(self._channels.values(), widened=widened, before=before)

    async def close(self) -> None:
        """Stop what is being subscribed."""
        await self._tasks.cancel()
        await self._resume.close()


@dataclass(frozen=True, slots=True)
class Channels:
    """What clients use channels by."""

    subscriptions: Subscriptions
    publisher: Publisher

    async def close(self) -> None:
        """Stop what is being subscribed."""
        await self.subscriptions.close()


def make_channels(
    config: Config, name: str, log: ResultsLog, registry: Registry, resume: ResumeService, producer: RecordProducer,
    refresh: Callable[[], Awaitable[object]], metrics: Metrics,
) -> Channels | None:  # fmt: skip
    """Make what channels need, if they are enabled. name: this gateway's; refresh: has the topics looked at."""
    if not config.channels.enabled:
        return None
    subscriptions = Subscriptions(
        config, log, registry.channels, SubscriptionResume(log.homes, resume), refresh, metrics
    )
    return Channels(subscriptions, Publisher(config, producer, log.homes, name, metrics))


def _refuse(session: Session, message: Subscribe, fault: Fault) -> None:
    payload = event(
        "error", id=message.id, channel=message.channel[:256], code=fault.code, message=fault.message,
        retry_after_ms=fault.retry_after_ms,
    )  # fmt: skip
    session.send(control_event("error", payload))
