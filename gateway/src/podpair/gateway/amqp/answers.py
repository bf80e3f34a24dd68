"""Gives the answer to a message: to its session's log, to whoever waits for a reply, or to the dead letters.

Invariant: `give` returns true only once all that says how the message ended is safe: acknowledged by Kafka, confirmed by
RabbitMQ, or undeliverable for good. Only then the message may be acknowledged.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from podpair.gateway.amqp.publisher import Publishes
from podpair.gateway.core.amqp_messages import (
    AmqpRequest,
    Message,
    Outbound,
    dead_letter,
    deserves_dead_letter,
    error_message,
    result_message,
)
from podpair.gateway.core.celery_tasks import task_failure, task_result
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.kafka.producer import Outgoing, RecordProducer
from podpair.gateway.metrics import Metrics
from podpair.gateway.results.writer import ResultWriter


@dataclass(frozen=True, slots=True)
class Ending:
    """How a message ends: with the JSON object of a result, or with a fault after so many attempts."""

    body: bytes = b""
    fault: Fault | None = None
    attempts: int = 0
    unread: bool = False
    """It is no request: it is kept, whoever is notified."""

    @property
    def outcome(self) -> str:
        """What it counts as."""
        if self.unread:
            return "invalid_record"
        return "result" if self.fault is None else self.fault.code


@dataclass(frozen=True, slots=True)
class AnswerOutlets:
    """Where answers go."""

    publisher: Publishes
    producer: RecordProducer
    results: ResultWriter


class Answers:
    """Gives answers. by: this gateway's name; queue: that messages come from; exchange: of dead letters, if they are kept."""

    def __init__(self, outlets: AnswerOutlets, metrics: Metrics, by: str, queue: str, exchange: str | None) -> None:
        self._outlets = outlets
        self._metrics = metrics
        self._by = by
        self._queue = queue
        self._exchange = exchange

    async def give(self, message: Message, found: AmqpRequest, ending: Ending, wanted: Callable[[], bool]) -> bool:
        """Report how a message ended. Returns False if that could not be done while `wanted` returned true.

        Raises Unkept once all are notified, if it was to be kept and there is no way to.
        """
        kept = True
        if (fault := ending.fault) is not None and self._is_kept(found, ending):
            self._metrics.dead.inc()
            kept = await self._bury(message, fault, ending.attempts, wanted)
        if found.request.session:
            await self._outlets.producer.send_until_acked(self._record(found, ending))
        if found.reply is not None:
            reply = self._reply(found, ending)
            outcome = await self._outlets.publisher.publish(reply, wanted)
            if outcome == "too_large":
                outcome = await self._outlets.publisher.publish(self._too_large(found, len(reply.body)), wanted)
            self._metrics.amqp_replies.labels(outcome).inc()
            if outcome == "unwanted":
                return False
        if not kept:
            if not wanted():
                return False
            raise Unkept
        return True

    def _is_kept(self, found: AmqpRequest, ending: Ending) -> bool:
        notified = bool(found.request.session) or found.reply is not None
        return ending.unread or deserves_dead_letter(ending.outcome, notified=notified)

    async def _bury(self, message: Message, fault: Fault, attempts: int, wanted: Callable[[], bool]) -> bool:
        if self._exchange is None:
            return False
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        letter = dead_letter(message, fault, attempts, self._by, self._exchange, self._queue, at)
        return await self._outlets.publisher.publish(letter, wanted) == "confirmed"

    def _record(self, found: AmqpRequest, ending: Ending) -> Outgoing:
        session, request_id = found.request.session, found.request.id
        if ending.fault is not None:
            return self._outlets.results.error(session, request_id, ending.fault)
        return self._outlets.results.result(session, request_id, ending.body)

    def _too_large(self, found: AmqpRequest, size: int) -> Outbound:
        message = f"the answer ({size} bytes, and its ids) is larger than RabbitMQ takes (max_message_size)"
        return self._reply(found, Ending(fault=Fault(Code.INTERNAL, message)))

    def _reply(self, found: AmqpRequest, ending: Ending) -> Outbound:
        reply, fault, now = found.reply, ending.fault, time.time()
        assert reply is not None  # noqa: S101 - the caller has looked
        if reply.celery:
            return task_result(found, reply, ending.body) if fault is None else task_failure(found, reply, fault)
        if fault is None:
            return result_message(found, reply, ending.body, self._by, now)
        return error_message(found, reply, fault, self._by, now)


class Unkept(Exception):
    """A message has to be rejected: it could not be kept with its reason."""


def internal_fault(error: BaseException) -> Fault:
    """Return the fault for an error that nobody expects."""
    return Fault(Code.INTERNAL, f"internal error: {type(error).__name__}")
