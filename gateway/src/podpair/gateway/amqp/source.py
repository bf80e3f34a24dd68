"""RabbitMQ as a source of requests: its parts, put together."""

import logging

from podpair.common.gateway_config.model import Config
from podpair.gateway.amqp.answers import AnswerOutlets, Answers
from podpair.gateway.amqp.connection import quiet_client, tolerate_timestamps
from podpair.gateway.amqp.consumer import Consumer
from podpair.gateway.amqp.engine import MessageEngine
from podpair.gateway.amqp.publisher import Publisher
from podpair.gateway.kafka.producer import RecordProducer
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.tracing import Telemetry
from podpair.gateway.upstream.factory import ModelAccess

_log = logging.getLogger(__name__)


class AmqpSource:
    """Takes messages from a queue, and answers them. `name`: of this gateway."""

    def __init__(
        self, config: Config, model: ModelAccess, producer: RecordProducer, results: ResultWriter, telemetry: Telemetry,
        name: str,
    ) -> None:  # fmt: skip
        quiet_client()
        tolerate_timestamps()
        amqp, metrics = config.amqp, telemetry.metrics
        self._closing = False
        self._queue = amqp.queue
        self._metrics = metrics
        self._publisher = Publisher(amqp, name, metrics)
        outlets = AnswerOutlets(self._publisher, producer, results)
        answers = Answers(outlets, metrics, name, amqp.queue, amqp.dead_letter_exchange)
        self._engine = MessageEngine(config, model, answers, results, telemetry)
        self._consumer = Consumer(amqp, self._engine, metrics)
        metrics.amqp_ready.set_function(lambda: self.trouble is None)
        metrics.amqp_in_flight.set_function(lambda: self._engine.in_hand)
        metrics.amqp_length.source = self._lengths
        model.readiness.on_change(self._on_ready)
        self._on_ready(model.readiness.ready)

    def _lengths(self) -> dict[str, float]:
        return {} if self._consumer.length is None else {self._queue: self._consumer.length}

    def _on_ready(self, ready: bool) -> None:
        if not self._closing:
            self._consumer.pause(not ready)
            self._metrics.amqp_paused.set(not ready)

    @property
    def in_hand(self) -> int:
        """How many messages are worked on."""
        return self._engine.in_hand

    @property
    def trouble(self) -> str | None:
        """Why RabbitMQ can't be used; None: it can."""
        return self._consumer.trouble or self._publisher.trouble

    async def close(self, timeout: float) -> None:
        """Take no more messages, finish those in hand (up to `timeout` seconds), leave RabbitMQ."""
        self._closing = True
        self._consumer.pause(True)
        await self._engine.drain(timeout)
        await self._consumer.close()
        await self._engine.close()
        await self._publisher.close()
