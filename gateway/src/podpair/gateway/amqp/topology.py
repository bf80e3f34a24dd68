"""Queues and exchanges: declared, or only looked for."""

from typing import Any

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity

from podpair.common.gateway_config.amqp import Amqp
from podpair.gateway.amqp.connection import BrokerUnusable, describe


def queue_arguments(config: Amqp) -> dict[str, Any]:
    """Return what the queue of requests is declared with."""
    arguments: dict[str, Any] = {"x-queue-type": config.queue_type}
    if config.queue_type == "quorum":
        # It also keeps what a gateway returns at its place: without it such messages go behind all others.
        arguments["x-delivery-limit"] = config.delivery_limit
    if config.max_priority is not None:
        arguments["x-max-priority"] = config.max_priority
    if config.message_ttl_seconds is not None:
        arguments["x-message-ttl"] = max(1, round(config.message_ttl_seconds * 1000))
    if config.dead_letter_exchange is not None:
        arguments |= {"x-dead-letter-exchange": config.dead_letter_exchange, "x-dead-letter-routing-key": config.queue}
        if config.queue_type == "quorum":
            # Otherwise a death that the queue of dead letters misses is a loss. It needs this way to be full.
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return arguments


async def ensure_topology(channel: AbstractChannel, config: Amqp) -> None:
    """Declare what there has to be, or check that it is there. Raises BrokerUnusable; the channel is closed then."""
    try:
        if config.declare:
            await _declare(channel, config)
        else:
            await _check(channel, config)
    except ChannelNotFoundEntity as error:
        raise BrokerUnusable(f"what is needed is missing: {describe(error)}") from None
    except ChannelClosed as error:
        raise BrokerUnusable(f"queue {config.queue} can't be declared as it is set: {describe(error)}") from None


async def _declare(channel: AbstractChannel, config: Amqp) -> None:
    if config.dead_letter_exchange is not None:
        exchange = await channel.declare_exchange(config.dead_letter_exchange, "fanout", durable=True)
        letters = await channel.declare_queue(
            config.dead_letter_queue, durable=True, arguments={"x-queue-type": config.queue_type}
        )
        await letters.bind(exchange, config.queue)
    queue = await channel.declare_queue(config.queue, durable=True, arguments=queue_arguments(config))
    for key in config.routing_keys:
        await queue.bind(config.exchange or "", key)


async def _check(channel: AbstractChannel, config: Amqp) -> None:
    await channel.declare_queue(config.queue, passive=True)
    if config.dead_letter_exchange is not None:
        await channel.declare_exchange(config.dead_letter_exchange, passive=True)


async def queue_length(channel: AbstractChannel, config: Amqp) -> int:
    """Return how many messages wait in the queue, without those that consumers have. Raises BrokerUnusable if it is gone."""
    try:
        queue = await channel.declare_queue(config.queue, passive=True)
    except ChannelClosed as error:
        raise BrokerUnusable(f"queue {config.queue}: {describe(error)}") from None
    return queue.declaration_result.message_count or 0
