"""Probes the broker, and watches the topics for changes.

librdkafka reports brokers that are lost, not those that are back; and it does not notice a topic that was deleted and created
again: a client continues at its old offset in the new log. So topic ids and widths are checked here.

Invariant: the state of Kafka in readiness is at most a probe and its timeout old; each change of a topic is reported once, on
the loop's thread, in the order in which it was seen.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.topic_state import ObservedTopic, TopicState, change_of
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.threads import post_to_loop
from podpair.gateway.kafka.topics import MISSING, NO_TOPIC_IDS, Topics, describe, widths
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_PATIENCE = 2.0  # seconds for a probe, at least
_DOUBT = 0.25  # seconds between probes while a topic may be missing
_LIMITS = 30.0  # seconds between queries of the topics' limits
_SPACING = 0.1  # seconds between probes that are requested at once

OnChange = Callable[[str, TopicState | None, TopicState | None], object]
"""Called with a topic's name, what it was and what it is; None: there is no such topic."""


class _Answer(NamedTuple):
    broker_error: str | None
    states: Mapping[str, TopicState | None]  # of the topics that a broker has described


class TopicWatch:
    """Probes on a thread. `broker_error` is why the broker counts as unreachable, or None.

    `state` is the last known state of each topic, None if it does not exist. on_change: called when a topic was deleted,
    created (again), widened or narrowed.
    """

    def __init__(self, config: Config, metrics: Metrics, topics: Topics, on_change: OnChange) -> None:
        self.broker_error: str | None = None
        self.state: dict[str, TopicState | None] = dict(topics.state)
        self._address = config.kafka.bootstrap_servers
        self._interval = config.kafka.probe_seconds
        self._has_ids = not config.kafka.embedded  # the mock broker has none, and does not report that
        self._metrics = metrics
        self._on_change = on_change
        self._on_broker_change: list[Callable[[str | None], object]] = []
        self._topics = {name: ObservedTopic(found, time.monotonic) for name, found in topics.state.items()}
        self._probe_topic = config.results.topic  # its metadata is the probe
        self._limits = topics.limits
        self._limits_due = time.monotonic() + _LIMITS
        self._no_ids = False  # topics can't be described; logged once
        self._refused: set[str] = set()  # topics that the broker refused to describe; logged once
        self._loop = asyncio.get_running_loop()
        self.admin = AdminClient(properties(config))
        self._gate = threading.Condition()
        self._wanted = 0  # how often a probe was requested, …
        self._served = 0  # … and how many of these requests the thread has served
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kafka-topic-watch", daemon=True)
        metrics.kafka_ready.set(1)
        self._thread.start()

    def on_broker_change(self, callback: Callable[[str | None], object]) -> None:
        """Call `callback`, on the loop's thread, with the error when no broker answers any more, and with None once one does."""
        self._on_broker_change.append(callback)

    async def refresh(self) -> bool:
        """Probe at once; return, after changes were reported to `on_change`, whether a broker has answered."""
        done: asyncio.Future[None] = self._loop.create_future()
        with self._gate:
            if self._stopping:
                return self.broker_error is None
            self._wanted += 1
            self._waiting.append((self._wanted, done))
            self._gate.notify()
        await done
        return self.broker_error is None

    def _run(self) -> None:
        while True:
            with self._gate:
                pause = _DOUBT if any(topic.in_doubt for topic in self._topics.values()) else self._interval
                self._gate.wait_for(lambda: self._stopping or self._wanted > self._served, pause)
                if self._stopping:
                    return
                self._served = served = self._wanted
            if not post_to_loop(self._loop, self._report, self._ask(), served):
                return
            with self._gate:
                self._gate.wait_for(lambda: self._stopping, _SPACING)

    def _ask(self) -> _Answer:
        patience = max(self._interval, _PATIENCE)
        try:
            self.admin.list_topics(self._probe_topic, timeout=patience)
        except KafkaException as error:
            return _Answer(error.args[0].str(), {})
        try:
            described = self._describe(patience)
        except KafkaException as error:  # a cluster without a controller, for one
            if not self._no_ids:
                self._no_ids = True
                _log.warning("the topics can't be described: %s", error.args[0].str())
            return _Answer(None, {})
        self._no_ids = False
        self._ask_for_limits()
        states: dict[str, TopicState | None] = {}
        for name, found in described.items():
            if not isinstance(found, KafkaError):
                states[name] = found
            elif found.code() in MISSING:
                states[name] = None
            elif name not in self._refused:
                self._refused.add(name)
                _log.warning("topic %s can't be watched: %s", name, found.str())
        return _Answer(None, states)

    def _ask_for_limits(self) -> None:
        """Query the limits, on the thread, at longer intervals: they change rarely."""
        if self._has_ids and time.monotonic() >= self._limits_due:
            self._limits.ask(self.admin, list(self._topics), _PATIENCE)
            self._limits_due = time.monotonic() + _LIMITS

    def _describe(self, patience: float) -> dict[str, TopicState | KafkaError]:
        names = list(self._topics)
        if self._has_ids:
            described = describe(self.admin, names, patience)
            if not any(isinstance(found, KafkaError) and found.code() in NO_TOPIC_IDS for found in described.values()):
                return described
            self._has_ids = False
        return widths(self.admin, names, patience)

    def _report(self, answer: _Answer, served: int) -> None:
        broker_error, before = answer.broker_error, self.broker_error
        self.broker_error = broker_error
        if (broker_error is None) != (before is None):
            self._metrics.kafka_ready.set(broker_error is None)
            if broker_error is None:
                _log.info("the broker at %s answers again", self._address)
            else:
                _log.error("the broker at %s does not answer: %s", self._address, broker_error)
            for callback in self._on_broker_change:
                callback(broker_error)
        for name, found in answer.states.items():
            self._observe(name, found)
        with self._gate:
            done = [future for number, future in self._waiting if number <= served]
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > served]
        for future in done:
            if not future.done():
                future.set_result(None)

    def _observe(self, name: str, found: TopicState | None) -> None:
        topic = self._topics[name]
        old = topic.state
        if not topic.observe(found):
            return
        new = self.state[name] = topic.state
        self._limits_due = 0.0
        change = change_of(old, new)
        _log.warning("topic %s was %s: it was %s, and is %s", name, change, _shown(old), _shown(new))
        self._metrics.topic_changes.labels(name, change).inc()
        try:
            self._on_change(name, old, new)
        except Exception:
            _log.exception("handling a change of topic %s failed", name)

    async def close(self) -> None:
        """Stop probing, and release pending calls of `refresh`."""
        with self._gate:
            self._stopping = True
            self._gate.notify()
        await self._loop.run_in_executor(None, self._thread.join)
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)


def _shown(state: TopicState | None) -> str:
    if state is None:
        return "not there"
    return f"{state.topic_id or 'without an id'} with {state.partitions} partitions"
