"""A bare client of RabbitMQ for tests: it publishes requests and takes what is answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

PATIENCE = 30.0  # seconds for a message that has to come


class AmqpClient:
    """A connection with a reply queue of its own, which ends with it."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, replies: AbstractQueue) -> None:
        self.channel = channel
        self.replies = replies

    async def publish(
        self, queue: str, body: Any, *, answered: bool = True, exchange: str = "", **properties: Any
    ) -> None:
        """Publish a request; bytes as they are, anything else as JSON. The exchange has to route it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if answered:
            properties.setdefault("reply_to", self.replies.name)
        to = self.channel.default_exchange if not exchange else await self.channel.get_exchange(exchange, ensure=False)
        await to.publish(aio_pika.Message(raw, **properties), queue)

    async def take(self, queue: AbstractQueue | str | None = None) -> AbstractIncomingMessage:
        """The next message of a queue (by default the replies'), acknowledged."""
        if queue is None:
            queue = self.replies
        elif isinstance(queue, str):
            queue = await self.channel.get_queue(queue, ensure=False)
        async with asyncio.timeout(PATIENCE):
            while (message := await queue.get(fail=False)) is None:
                await asyncio.sleep(0.01)
        await message.ack()
        return message

    async def answer(self) -> tuple[AbstractIncomingMessage, Any]:
        """The next reply, and what its body says."""
        message = await self.take()
        return message, json.loads(message.body)

    async def length(self, queue: str) -> int:
        """How many messages wait in a queue."""
        found = await self.channel.declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0


@asynccontextmanager
async def amqp_client(url: str) -> AsyncIterator[AmqpClient]:
    """A client at the broker, for as long as the `with` lasts."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        yield AmqpClient(channel, await channel.declare_queue(exclusive=True))
