"""Whether a broker answers, and what it says of the topics: asked for all the time.

librdkafka tells of brokers that went away, not of those that are back; and of a topic that was deleted and made again it
tells nothing at all: a client goes on at its old offset in the new log. So the ids and widths are looked at here.

Invariant: what readiness says of Kafka is at most a probe and its patience old; each change of a topic is told once, on the
loop's thread, in the order in which it was seen.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from podpair.gateway.config.model import Config
from podpair.gateway.core.topic_state import ObservedTopic, TopicState, change_of
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.threads import call_on
from podpair.gateway.kafka.topics import MISSING, NO_TOPIC_IDS, Topics, describe, widths
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_PATIENCE = 2.0  # seconds for an answer, at least
_DOUBT = 0.25  # seconds between probes while a topic may be missing
_LIMITS = 30.0  # seconds between questions how large a record the topics take
_SPACING = 0.1  # seconds between probes that are asked for at once

OnChange = Callable[[str, TopicState | None, TopicState | None], object]
"""Called with a topic's name, what it was and what it is; None: there is no such topic."""


class _Answer(NamedTuple):
    away: str | None
    states: Mapping[str, TopicState | None]  # of the topics that a broker has told of


class TopicWatch:
    """A thread that asks. `away` is why the broker does not count as there, or None.

    `state` is what each topic was when it was seen last, None where there is none. `on_change` hears of topics that were
    deleted, created (again), widened or narrowed.
    """

    def __init__(self, config: Config, metrics: Metrics, topics: Topics, on_change: OnChange) -> None:
        self.away: str | None = None
        self.state: dict[str, TopicState | None] = dict(topics.state)
        self._address = config.kafka.bootstrap_servers
        self._interval = config.kafka.probe_seconds
        self._has_ids = not config.kafka.embedded  # the mock broker has none, and would not say so
        self._metrics = metrics
        self._on_change = on_change
        self._on_away: list[Callable[[str | None], object]] = []
        self._topics = {name: ObservedTopic(found, time.monotonic) for name, found in topics.state.items()}
        self._presence = config.results.topic  # what is asked for to learn whether anybody answers
        self._limits = topics.limits
        self._limits_due = time.monotonic() + _LIMITS
        self._blind = False  # nobody tells what the topics are; told once
        self._refused: set[str] = set()  # topics that the broker refused to describe; told once
        self._loop = asyncio.get_running_loop()
        self.admin = AdminClient(properties(config))
        self._gate = threading.Condition()
        self._wanted = 0  # how often it was asked to ask at once, …
        self._served = 0  # … and how many of these times the thread has taken up
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kafka-topic-watch", daemon=True)
        metrics.kafka_ready.set(1)
        self._thread.start()

    def on_away(self, told: Callable[[str | None], object]) -> None:
        """`told` is called with why no broker answers any more, and with None once one does; on the loop's thread."""
        self._on_away.append(told)

    async def refresh(self) -> bool:
        """Ask at once; returns when what was found has been told to `on_change`: whether a broker has answered."""
        done: asyncio.Future[None] = self._loop.create_future()
        with self._gate:
            if self._stopping:
                return self.away is None
            self._wanted += 1
            self._waiting.append((self._wanted, done))
            self._gate.notify()
        await done
        return self.away is None

    def _run(self) -> None:
        while True:
            with self._gate:
                pause = _DOUBT if any(topic.in_doubt for topic in self._topics.values()) else self._interval
                self._gate.wait_for(lambda: self._stopping or self._wanted > self._served, pause)
                if self._stopping:
                    return
                self._served = served = self._wanted
            if not call_on(self._loop, self._tell, self._ask(), served):
                return
            with self._gate:
                self._gate.wait_for(lambda: self._stopping, _SPACING)

    def _ask(self) -> _Answer:
        patience = max(self._interval, _PATIENCE)
        try:
            self.admin.list_topics(self._presence, timeout=patience)
        except KafkaException as error:
            return _Answer(error.args[0].str(), {})
        try:
            told = self._describe(patience)
        except KafkaException as error:  # a cluster without a controller, for one
            if not self._blind:
                self._blind = True
                _log.warning("the topics' ids can't be had: %s", error.args[0].str())
            return _Answer(None, {})
        self._blind = False
        self._ask_for_limits()
        states: dict[str, TopicState | None] = {}
        for name, found in told.items():
            if not isinstance(found, KafkaError):
                states[name] = found
            elif found.code() in MISSING:
                states[name] = None
            elif name not in self._refused:
                self._refused.add(name)
                _log.warning("topic %s can't be watched: %s", name, found.str())
        return _Answer(None, states)

    def _ask_for_limits(self) -> None:
        """On the thread, now and then: it is a question more, and limits are changed by people."""
        if self._has_ids and time.monotonic() >= self._limits_due:
            self._limits.ask(self.admin, list(self._topics), _PATIENCE)
            self._limits_due = time.monotonic() + _LIMITS

    def _describe(self, patience: float) -> dict[str, TopicState | KafkaError]:
        names = list(self._topics)
        if self._has_ids:
            told = describe(self.admin, names, patience)
            if not any(isinstance(found, KafkaError) and found.code() in NO_TOPIC_IDS for found in told.values()):
                return told
            self._has_ids = False
        return widths(self.admin, names, patience)

    def _tell(self, answer: _Answer, served: int) -> None:
        away, before = answer.away, self.away
        self.away = away
        if (away is None) != (before is None):
            self._metrics.kafka_ready.set(away is None)
            if away is None:
                _log.info("the broker at %s answers again", self._address)
            else:
                _log.error("the broker at %s does not answer: %s", self._address, away)
            for told in self._on_away:
                told(away)
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
            _log.exception("a change of topic %s was not taken", name)

    async def close(self) -> None:
        """Stop asking; who still waits for an answer is let go."""
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
