"""Takes messages from the queue: as many as are worked on, none while the model is not ready.

Invariant: a message that was delivered is acknowledged at most once, on the channel that brought it. Once that has ended the
broker gives its messages to somebody else: work that isn't answered yet is dropped then.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from aio_pika.abc import AbstractChannel as AioPikaChannel
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage

from podpair.common.gateway_config.amqp import Amqp
from podpair.gateway.amqp.connection import BROKEN, BrokerUnusable, ConnectionKeeper, call_at_end, own_cancel
from podpair.gateway.amqp.topology import ensure_topology, queue_length
from podpair.gateway.core.amqp_messages import Message
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_IN_DOUBT = 90.0  # seconds that an acknowledgement may be on its way; heartbeats end a dead connection before


class Link:
    """A channel that brings messages, for as long as it lasts."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self._ended: float | None = None

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._ended is None

    def end(self) -> None:
        """Note that the channel has ended: what it brought and is not acknowledged comes again, to whomever."""
        if self._ended is None:
            self._ended = time.monotonic()

    def may_have_lost(self, acknowledged: float) -> bool:
        """Return whether an acknowledgement of that time (monotonic) may not have reached the broker."""
        return self._ended is not None and self._ended - acknowledged <= _IN_DOUBT

    async def ack(self, tag: int) -> None:
        """Acknowledge a message. Where that gets lost the message comes again, marked as redelivered."""
        if not self.alive:
            return
        try:
            await self.channel.basic_ack(tag, wait=False)
        except BROKEN:
            if own_cancel():
                raise

    async def reject(self, tag: int) -> None:
        """Give a message up: the queue's own policy says what becomes of it."""
        if not self.alive:
            return
        try:
            await self.channel.basic_reject(tag, requeue=False, wait=False)
        except BROKEN:
            if own_cancel():
                raise


class Handler(Protocol):
    """What works on messages."""

    def take(self, link: Link, tag: int, message: Message) -> None:
        """Take a message in hand."""
        ...

    def drop(self, link: Link) -> None:
        """Give up what a link brought that has ended."""
        ...


def message_of(delivered: DeliveredMessage) -> Message:
    """Convert what aiormq delivers."""
    properties: Any = delivered.header.properties
    stamp = properties.timestamp
    return Message(
        delivered.body,
        properties.headers or {},
        properties.message_id or "",
        properties.correlation_id or "",
        properties.reply_to or "",
        properties.content_type or "",
        properties.content_encoding or "",
        properties.expiration or "",
        stamp.timestamp() if stamp is not None else None,
        properties.priority,
        delivered.routing_key or "",
        bool(getattr(delivered.delivery, "redelivered", False)),
    )


class Consumer:
    """Consumes a queue, unless it is paused."""

    def __init__(self, config: Amqp, handler: Handler, metrics: Metrics) -> None:
        self._config = config
        self._handler = handler
        self._metrics = metrics
        self._wanted = asyncio.Event()  # set: something changes, or has ended
        self._paused = True
        self._cancelled = False  # by the broker
        self.length: int | None = None
        """Messages that wait in the queue, as of the last look; None: not known."""
        self._keeper = ConnectionKeeper(config, "consumer", self._serve, metrics)

    @property
    def trouble(self) -> str | None:
        """What is wrong; None: nothing."""
        return self._keeper.trouble

    def pause(self, paused: bool) -> None:
        """Stop or go on taking messages; what is in hand stays."""
        self._paused = paused
        self._wanted.set()

    async def _serve(self, connection: AbstractConnection, established: Callable[[], None]) -> None:
        channel = await connection.channel(publisher_confirms=False)
        await ensure_topology(channel, self._config)
        probe = await connection.channel(publisher_confirms=False)
        self.length = await queue_length(probe, self._config)
        underlay = await channel.get_underlay_channel()
        await underlay.basic_qos(prefetch_count=self._config.prefetch)
        underlay.on_consumer_cancel_callbacks.add(self._on_cancelled)
        link, self._cancelled = Link(underlay), False
        call_at_end(connection, (channel, probe), lambda: self._end(link))
        established()
        try:
            await self._follow(link, probe)
        finally:
            link.end()
            self.length = None
            self._handler.drop(link)

    async def _follow(self, link: Link, probe: AioPikaChannel) -> None:
        """Consume or not, as is wanted, until the channel has ended."""
        tag: str | None = None
        looked = time.monotonic()
        while link.alive:
            self._wanted.clear()
            if self._cancelled:
                raise BrokerUnusable(f"queue {self._config.queue} was deleted, or its consumers were ended")
            if self._paused and tag is not None:
                await link.channel.basic_cancel(tag)
                tag = None
            elif not self._paused and tag is None:
                tag = (await link.channel.basic_consume(self._config.queue, self._receiver(link))).consumer_tag
            wait = looked + self._config.probe_seconds - time.monotonic()
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
            else:
                looked = time.monotonic()
                self.length = await queue_length(probe, self._config)

    def _receiver(self, link: Link) -> Callable[[DeliveredMessage], Any]:
        async def receive(delivered: DeliveredMessage) -> None:
            if link.alive and delivered.delivery_tag is not None:
                self._handler.take(link, delivered.delivery_tag, message_of(delivered))

        return receive

    def _end(self, link: Link) -> None:
        link.end()
        self._wanted.set()

    def _on_cancelled(self, _: object) -> None:
        self._cancelled = True
        self._wanted.set()

    async def close(self) -> None:
        """Leave RabbitMQ: what is not acknowledged goes back to the queue."""
        await self._keeper.close()
