"""Whether a broker answers: asked for all the time, for librdkafka tells of brokers that went away, not of those that are back.

Invariant: what readiness says of Kafka is at most a probe and its patience old.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from podpair.gateway.config.model import Config
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.threads import call_on
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)


class BrokerPresence:
    """A thread that asks. `away` is why the broker does not count as there, or None."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self.away: str | None = None
        self._address = config.kafka.bootstrap_servers
        self._topic = config.results.topic
        self._interval = config.kafka.probe_seconds
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._admin = AdminClient(properties(config))
        self._told: list[Callable[[str | None], object]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-presence", daemon=True)
        metrics.kafka_ready.set(1)
        self._thread.start()

    def on_away(self, told: Callable[[str | None], object]) -> None:
        """`told` is called with why no broker answers any more, and with None once one does; on the loop's thread."""
        self._told.append(told)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._admin.list_topics(self._topic, timeout=max(self._interval, 2.0))
                away = None
            except KafkaException as error:
                away = error.args[0].str()
            if not call_on(self._loop, self._tell, away):
                return

    def _tell(self, away: str | None) -> None:
        before, self.away = self.away, away
        if (away is None) != (before is None):
            self._metrics.kafka_ready.set(away is None)
            if away is None:
                _log.info("the broker at %s answers again", self._address)
            else:
                _log.error("the broker at %s does not answer: %s", self._address, away)
            for told in self._told:
                told(away)

    async def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        await self._loop.run_in_executor(None, self._thread.join)
