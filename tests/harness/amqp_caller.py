"""A caller that asks thousands of things over RabbitMQ while everything dies, and a checker of what it is answered.

Requests are confirmed by the broker, answers come to a durable queue and are acknowledged once they are noted. Whatever is in
doubt after a fault is published again with the same message id.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from podpair.gateway.amqp.connection import BROKEN, own_cancel

_SLACK = 5.0  # seconds that an answer may have waited in the reply queue, since it was given
_AWAY = (*CONNECTION_EXCEPTIONS, TimeoutError)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AbstractConnection]:
    """A connection, which is not waited for long where it has broken: aio-pika may wait for ever for its goodbye."""
    connection = await aio_pika.connect(url, timeout=10)
    try:
        yield connection
    finally:
        with suppress(*_AWAY):
            async with asyncio.timeout(1):
                await connection.close()


class Answer(NamedTuple):
    """An answer as it came."""

    reply_id: str
    at: float
    redelivered: bool
    """The broker gave it before, and its acknowledgement was lost."""
    right: bool


class ReplyChecker:
    """Each request is answered, with its own answer, and as one answer: what comes again has the same message id, so that its
    caller knows it, and has come since a fault of which no more can follow than were in hand.
    """

    def __init__(self) -> None:
        self._asked: set[int] = set()
        self._doubtful: set[int] = set()
        self._answers: dict[int, list[Answer]] = defaultdict(list)
        self._faults: list[tuple[float, float, int]] = []

    def asked(self, number: int) -> None:
        """The broker has the request."""
        self._asked.add(number)

    def doubtful(self, number: int) -> None:
        """The request is published again: whether the broker had it is not known."""
        self._doubtful.add(number)

    def fault(self, began: float, dead: float, in_hand: int) -> None:
        """Something began to die, and was dead; that many answers may have been given and not acknowledged."""
        self._faults.append((began, dead, in_hand))

    def answered(self, number: int, answer: Answer) -> None:
        """An answer has come."""
        self._answers[number].append(answer)

    @property
    def complete(self) -> bool:
        """Whether each request has an answer."""
        return self._asked <= self._answers.keys()

    @property
    def repeats(self) -> int:
        """How many answers came again."""
        return sum(len(self._again(number)) for number in self._answers.keys() - self._doubtful)

    def _again(self, number: int) -> list[Answer]:
        return [answer for answer in self._answers[number][1:] if not answer.redelivered]

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        missing = sorted(self._asked - self._answers.keys())
        if missing:
            found.append(f"no answer: {len(missing)}: {missing[:5]}")
        for number, answers in sorted(self._answers.items()):
            if number not in self._asked:
                found.append(f"{number}: answered, never asked")
            if not all(answer.right for answer in answers):
                found.append(f"{number}: not its own answer")
            if len(different := {answer.reply_id for answer in answers}) > 1:
                found.append(f"{number}: {len(different)} different answers")
            found += [
                f"{number}: answered twice, and nothing had died"
                for again in self._again(number)
                if number not in self._doubtful and not self._excused(answers[0], again)
            ]
        if self.repeats > (most := sum(in_hand for *_, in_hand in self._faults)):
            found.append(f"{self.repeats} answers came again: {most} were in hand when something died")
        return found

    def _excused(self, first: Answer, again: Answer) -> bool:
        # What is dying may still answer, and be dead before that is acknowledged.
        return any(first.at - _SLACK <= dead and began <= again.at for began, dead, _ in self._faults)


class AmqpCaller:
    """Asks, and notes the answers, over however many connections that takes."""

    def __init__(self, url: str, queue: str, body: Callable[[int], Any], right: Callable[[int, Any], bool]) -> None:
        self.checker = ReplyChecker()
        self._url = url
        self._queue = queue
        self._body = body
        self._right = right
        self._replies = f"{queue}.replies"

    async def ask(self, numbers: range, at_a_time: int) -> None:
        """Publish requests, each until the broker has confirmed it."""
        left = list(numbers)
        while left:
            try:
                async with _connected(self._url) as connection:
                    channel = await connection.channel(on_return_raises=True)
                    while left:
                        await asyncio.gather(*(self._publish(channel, number) for number in left[:at_a_time]))
                        del left[:at_a_time]
            except BROKEN:
                if own_cancel():
                    raise
                for number in left[:at_a_time]:
                    self.checker.doubtful(number)
                await asyncio.sleep(0.2)

    async def _publish(self, channel: aio_pika.abc.AbstractChannel, number: int) -> None:
        message = aio_pika.Message(
            json.dumps(self._body(number)).encode(),
            headers={"model": "digits"},
            message_id=f"request-{number}",
            correlation_id=str(number),
            reply_to=self._replies,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await channel.default_exchange.publish(message, self._queue)
        self.checker.asked(number)

    async def listen(self, ready: asyncio.Event) -> None:
        """Take answers until cancelled."""
        while True:
            try:
                async with _connected(self._url) as connection:
                    channel = await connection.channel()
                    await channel.set_qos(100)
                    queue = await channel.declare_queue(
                        self._replies, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 1000}
                    )
                    await queue.consume(self._on_answer)
                    ready.set()
                    await channel.closed()
            except BROKEN:
                if own_cancel():
                    raise
            await asyncio.sleep(0.1)

    async def _on_answer(self, message: AbstractIncomingMessage) -> None:
        number = int(message.correlation_id or -1)
        right = self._right(number, json.loads(message.body))
        self.checker.answered(
            number, Answer(message.message_id or "", time.monotonic(), bool(message.redelivered), right)
        )
        with suppress(*_AWAY):
            await message.ack()
