"""Publishes what a gateway writes to RabbitMQ, each message until it is confirmed.

It has a connection of its own: at a memory or disk alarm RabbitMQ stops connections that publish, and acknowledgements and
deliveries are not to wait with them.

Invariant: what is confirmed is safe with the broker. What was on its way when the connection ended may be there or not, and is
published again while it is wanted: with the same message id.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, Protocol, cast

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import DeliveryError
from aiormq.channel import Channel
from pamqp import frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from podpair.common.gateway_config.amqp import Amqp
from podpair.common.logs import Throttle
from podpair.gateway.amqp.connection import BROKEN, ConnectionKeeper, call_at_end, describe, own_cancel
from podpair.gateway.core.amqp_messages import Outbound
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_AGAIN, _LATEST = 0.1, 2.0  # seconds before a message that was refused is published again; they double
_STUCK = 10.0  # seconds without a confirmation after which something is wrong
_PERSISTENT = 2

_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")

Outcome = Literal["confirmed", "unroutable", "refused", "too_large", "unwanted"]


class Publishes(Protocol):
    """What publishes."""

    async def publish(self, message: Outbound, wanted: Callable[[], bool]) -> Outcome:
        """Publish a message; return what became of it."""
        ...


class Publisher:
    """Publishes with confirmations."""

    def __init__(self, config: Amqp, by: str, metrics: Metrics) -> None:
        self._by = by
        self._patience = config.reply_timeout_seconds
        self._metrics = metrics
        self._channel: Channel | None = None
        self._most: int | None = None  # bytes of a body that the broker takes; None: it hasn't said
        self._changed = asyncio.Condition()
        self._in_flight: dict[str, asyncio.Future[None]] = {}  # by message id, by which aiormq finds what is returned
        self._waiting: dict[object, float] = {}  # since when each waits for its confirmation
        self._throttle = Throttle()
        self._keeper = ConnectionKeeper(config, "publisher", self._serve, metrics)

    @property
    def trouble(self) -> str | None:
        """What is wrong; None: nothing."""
        if self._keeper.trouble is not None:
            return self._keeper.trouble
        if self._waiting and time.monotonic() - next(iter(self._waiting.values())) > _STUCK:
            return f"RabbitMQ has confirmed nothing for {_STUCK:.0f} s: it may be out of memory or disk"
        return None

    async def _serve(self, connection: AbstractConnection, established: Callable[[], None]) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        ended = asyncio.Event()
        call_at_end(connection, (channel,), ended.set)
        try:
            await self._set_channel(cast("Channel", await channel.get_underlay_channel()))
            established()
            await ended.wait()
        finally:
            self._channel = None

    async def _set_channel(self, channel: Channel) -> None:
        async with self._changed:
            self._channel = channel
            self._changed.notify_all()

    async def publish(self, message: Outbound, wanted: Callable[[], bool]) -> Outcome:
        """Publish a message; return once that is confirmed.

        Returns `unroutable` if there is no such queue, `refused` if it is full for `amqp.reply_timeout_seconds`, `too_large` if
        the broker takes no message of this size, and `unwanted` if it could not be confirmed while `wanted` returned true.
        """
        while (other := self._in_flight.get(message.message_id)) is not None:
            await asyncio.wait((other,))
        done = self._in_flight[message.message_id] = asyncio.get_running_loop().create_future()
        try:
            outcome = await self._publish(message, wanted)
        finally:
            del self._in_flight[message.message_id]
            done.set_result(None)
        return outcome

    async def _publish(self, message: Outbound, wanted: Callable[[], bool]) -> Outcome:
        delay, began = _AGAIN, time.monotonic()
        while wanted():
            channel = await self._ready_channel()
            properties = self._properties(message)
            if self._is_too_large(channel, message, properties):
                return "too_large"
            try:
                await self._confirmed(channel, message, properties)
            except DeliveryError as error:
                if not isinstance(error.frame, Basic.Nack):
                    return "unroutable"
                if time.monotonic() - began >= self._patience:
                    return "refused"
            except BROKEN as error:
                if own_cancel():
                    raise
                if (found := _TOO_LARGE.search(str(error))) is not None:
                    self._most = int(found[1])
                self._throttle.log(_log, logging.INFO, "a message is published again: %s", describe(error))
            else:
                return "confirmed"
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LATEST)
        return "unwanted"

    async def _ready_channel(self) -> Channel:
        async with self._changed:
            await self._changed.wait_for(lambda: self._channel is not None)
        assert self._channel is not None  # noqa: S101 - nobody was awaited since
        return self._channel

    def _is_too_large(self, channel: Channel, message: Outbound, properties: Basic.Properties) -> bool:
        """Return whether this message would end the channel or the connection, and with it what others publish.

        All properties go in one frame. How large a body may be the broker says only to who has sent a larger one.
        """
        head = len(frame.marshal(ContentHeader(body_size=len(message.body), properties=properties), 0))
        if head <= channel.max_content_size and (self._most is None or len(message.body) <= self._most):
            return False
        self._throttle.log(
            _log, logging.ERROR, "a message is larger than RabbitMQ takes: %d bytes, and %d of properties",
            len(message.body), head,
        )  # fmt: skip
        return True

    async def _confirmed(self, channel: Channel, message: Outbound, properties: Basic.Properties) -> None:
        waits = object()
        self._waiting[waits] = time.monotonic()
        try:
            await channel.basic_publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                properties=properties,
                mandatory=True,
                wait=False,
            )
        finally:
            del self._waiting[waits]

    def _properties(self, message: Outbound) -> Basic.Properties:
        return Basic.Properties(
            content_type=message.content_type or None,
            content_encoding=message.content_encoding or None,
            headers=dict(message.headers),
            delivery_mode=_PERSISTENT,
            correlation_id=message.correlation_id or None,
            reply_to=message.reply_to or None,
            message_id=message.message_id,
            timestamp=datetime.now(UTC),
            message_type=message.type or None,
            app_id=self._by,
        )

    async def close(self) -> None:
        """Leave RabbitMQ."""
        await self._keeper.close()
