"""What stands between the public port and the broker, put together, started and stopped in the right order."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from confluent_kafka import KafkaException

from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.auth.tokens import TokenVerifier
from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Config
from podpair.gateway.core.masking import masked
from podpair.gateway.core.offsets import incarnation_tag
from podpair.gateway.core.pace import Paces
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.quotas import Quotas, Rule
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka.clients import gateway_name
from podpair.gateway.kafka.embedded import EmbeddedKafka
from podpair.gateway.kafka.group_progress import GroupProgress
from podpair.gateway.kafka.history import History
from podpair.gateway.kafka.producer import RecordProducer
from podpair.gateway.kafka.results import ResultsReader
from podpair.gateway.kafka.standstill_watch import StandstillWatch
from podpair.gateway.kafka.supervisor import Supervisor
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.kafka.topic_watch import TopicWatch
from podpair.gateway.kafka.topics import MissingTopic, Topics, Unreachable, ensure_topics
from podpair.gateway.kafka.transactions import Transactions
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import Pacer
from podpair.gateway.sessions.dispatch import Dispatcher
from podpair.gateway.sessions.draining import send_away
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.joining import Joining
from podpair.gateway.sessions.lost_requests import LostRequests
from podpair.gateway.sessions.misplaced import Misplaced
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.requests_topic import RequestsTopic
from podpair.gateway.sessions.results_topic import ResultsTopic
from podpair.gateway.sessions.takeovers import Takeovers
from podpair.gateway.sessions.taking_back import TakingBack
from podpair.gateway.tasks import Tasks
from podpair.gateway.tracing import tracer_of
from podpair.gateway.upstream.asking import Asking
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.making import make_upstream
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.upstream.traced import TracedUpstream
from podpair.gateway.worker.answers import AnswerWriter
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.worker.ending import AtLeastOnce, ExactlyOnce
from podpair.gateway.worker.worker import Worker

_log = logging.getLogger(__name__)
_GOODBYE = 5.0  # seconds that clients may take to answer their close frames
_RETRY = 1.0  # seconds between attempts to reach the broker at start


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs once the broker is there."""

    topics: Topics
    upstream: Upstream
    asking: Asking
    readiness: Readiness
    producer: RecordProducer
    registry: Registry
    fanout: FanOut
    reader: ResultsReader
    history: History
    joining: Joining
    takeovers: Takeovers
    dispatcher: Dispatcher
    worker: Worker
    pacer: Pacer
    topic_watch: TopicWatch
    results_topic: ResultsTopic
    lost_requests: LostRequests
    requests_topic: RequestsTopic
    group_progress: GroupProgress
    standstill_watches: list[StandstillWatch]
    supervisor: Supervisor

    @property
    def homes(self) -> HomePartitions:
        """Where sessions' results are."""
        return self.results_topic.homes


class Service:
    """One gateway. Raises ConfigError where a key or secret that the configuration names can't be read."""

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics()
        self.clock: Callable[[], float] = time.monotonic
        self.verifier = TokenVerifier(config.auth, lambda outcome: self.metrics.keys.labels(outcome).inc())
        self.tokens = ResumeTokens(config.sessions)
        self.quotas = Quotas(Rule(**dict(rule)) for rule in config.admission.rules)
        self.name = gateway_name()
        self.tracer = tracer_of(config.tracing, self.name)
        self.draining = False
        self._requests: TopicState | None = None  # the requests topic as it was last there
        self.parts: Parts | None = None  # there once the broker is
        self._tasks = Tasks()
        self.waiting_for = "the broker"  # why there are no parts yet
        self._embedded: EmbeddedKafka | None = None
        if config.kafka.embedded:
            self._embedded = EmbeddedKafka()
            kafka = config.kafka.model_copy(update={"bootstrap_servers": self._embedded.bootstrap_servers})
            config = config.model_copy(update={"kafka": kafka})
            _log.info("embedded Kafka at %s", kafka.bootstrap_servers, extra={"kafka": kafka.bootstrap_servers})
        self.config = config
        if config.auth.disabled:
            _log.warning("auth.disabled: everyone is let in")
        if not self.tokens.shared:
            _log.warning(
                "sessions.resume_secret is not set: sessions can't resume at another gateway, or after a restart"
            )

    async def start(self) -> None:
        """Reach the broker, however long that takes, and start the parts. Raises MissingTopic or ConfigError."""
        self._tasks.begin(self.verifier.prepare())
        topics = await self._topics()
        async with AsyncExitStack() as undo:
            try:
                self.parts = self._started(topics, undo)
            except KafkaException as error:  # each client finds other properties at fault
                raise ConfigError([f"kafka.client: {error.args[0].str()}"]) from None
            undo.pop_all()

    def _started(self, topics: Topics, undo: AsyncExitStack) -> Parts:
        """The parts. `undo` ends those that were started where a later one can't be."""
        config, metrics = self.config, self.metrics
        upstream = make_upstream(config.inference)
        if self.tracer is not None:
            upstream = TracedUpstream(upstream, self.tracer)
        undo.push_async_callback(upstream.close)
        readiness = Readiness(upstream, config.inference.probe_seconds)
        undo.push_async_callback(readiness.close)
        readiness.on_change(metrics.ready.set)
        asking = Asking(config, upstream, readiness, metrics)
        undo.push_async_callback(asking.close)
        supervisor = Supervisor(metrics)
        undo.push_async_callback(supervisor.close)
        topic_watch = TopicWatch(config, metrics, topics, self._on_topic_change)
        undo.push_async_callback(topic_watch.close)
        producer = RecordProducer(config, metrics, topic_watch, supervisor, batch_bytes=topics.limits.batch_bytes)
        undo.push_async_callback(producer.close, 1.0)
        answers = AnswerWriter(producer, config.results.topic, self.name, topics.limits)
        dead_letters = DeadLetters(config.requests.dead_letter_topic, self.name, metrics)
        endings = self._endings(producer, topics.limits, supervisor)
        undo.push_async_callback(endings.close)
        paces = Paces()
        worker = Worker(
            config, asking, readiness, answers, dead_letters, endings, paces, self.tracer, metrics, supervisor,
            lambda: _tag(topic_watch.state[config.requests.topic]), lambda: requests_topic.look_soon(),
        )  # fmt: skip
        undo.push_async_callback(worker.close, 0.0)
        self._requests = topics.requests
        homes = topics.homes(config)
        registry = Registry(config, homes, lambda: worker.owned, lambda session: reader.retain(session), metrics)
        misplaced = Misplaced(config.results.topic, metrics)
        fanout = FanOut(registry.sessions, config.results.tail_bytes, misplaced, metrics, self.clock)
        reader = ResultsReader(
            config,
            homes,
            supervisor,
            topic_watch,
            opened=fanout.open,
            closed=fanout.close,
            deliver=fanout.deliver,
            lost=self._on_lost,
            failed=self._look_at_topics,
            reached=lambda partition: fanout.tails[partition].end,
        )
        undo.push_async_callback(reader.close)
        metrics.homes.set_function(lambda: reader.partitions)
        history = History(config, supervisor)
        undo.push_async_callback(history.close)
        pacer = Pacer(config.sessions.slow_seconds, self.clock)
        metrics.topics_ready.set_function(lambda: self._why_not_topics is None)
        metrics.slow.set_function(lambda: pacer.congested)
        progress = GroupProgress(config, topic_watch.admin)
        undo.push_async_callback(progress.close)
        requests_topic = RequestsTopic(
            registry.sessions,
            worker,
            None if config.kafka.embedded else progress,
            lambda: self._request_partitions,
            _tag(topics.requests),
            lambda session: joining.resume_token(session),
            metrics,
        )
        undo.push_async_callback(requests_topic.close)
        joining = Joining(
            config, homes, topics.limits, self.name, reader, history, fanout, self.tokens, requests_topic, metrics
        )
        dispatcher = Dispatcher(
            config,
            self.name,
            asking,
            readiness,
            producer,
            answers,
            TakingBack(config, self.name, producer, lambda: self._request_partitions, metrics),
            registry,
            joining.logged,
            topics.limits,
            paces,
            self.tracer,
            metrics,
        )
        worker.on_taken_back = dispatcher.taken_back
        results_topic = ResultsTopic(config, topics, homes, reader, history, joining, registry)
        lost_requests = LostRequests(
            config, registry.sessions, fanout, history, progress, lambda: self._request_partitions, dispatcher.lose
        )
        watches = [] if config.kafka.embedded else [
            StandstillWatch(config, config.results.topic, progress, lambda: reader.reached, reader.stalled),
            StandstillWatch(config, config.requests.topic, progress, lambda: worker.reached, worker.stalled, lambda: worker.held),
        ]  # fmt: skip
        return Parts(
            topics, upstream, asking, readiness, producer, registry, fanout, reader, history, joining,
            Takeovers(producer, config.results.topic, self.name), dispatcher, worker, pacer, topic_watch, results_topic,
            lost_requests, requests_topic, progress, watches, supervisor,
        )  # fmt: skip

    def _endings(
        self, producer: RecordProducer, limits: TopicLimits, supervisor: Supervisor
    ) -> AtLeastOnce | ExactlyOnce:
        requests = self.config.requests
        if not requests.exactly_once:
            return AtLeastOnce(producer)
        # A pod that keeps its name fences the transaction that it left open, and nobody waits for that to time out.
        name = f"{requests.group}.{requests.instance or self.name}"
        return ExactlyOnce(Transactions(self.config, name, limits.batch_bytes, self.metrics, supervisor))

    async def _topics(self) -> Topics:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(None, ensure_topics, self.config)
            except Unreachable as error:
                self.waiting_for = f"the broker at {self.config.kafka.bootstrap_servers}: {error}"
            except MissingTopic as error:
                if not self.config.kafka.await_topics:
                    raise
                self.waiting_for = str(error)
            _log.warning("waiting for %s", self.waiting_for)
            await asyncio.sleep(_RETRY)

    def _on_topic_change(self, topic: str, old: TopicState | None, new: TopicState | None) -> None:
        """A topic is not what it was: it was deleted, created again, widened or narrowed from outside."""
        parts = self.parts
        if parts is None:
            return
        if new is None:
            if self.config.kafka.create_topics:
                self._tasks.begin(self._create_topics())
            return
        if old is None or old.topic_id != new.topic_id:
            parts.producer.topic_replaced()
        self._tasks.begin(parts.producer.learn(topic))
        if topic == self.config.results.topic:
            parts.results_topic.changed(new)
            parts.takeovers.announce_again(parts.registry.sessions.values())
        elif topic == self.config.requests.topic and self._is_another(new):
            parts.worker.restart()
            self._tasks.begin(parts.lost_requests.requests_changed())
            parts.requests_topic.changed(_tag(new))

    def _is_another(self, requests: TopicState) -> bool:
        """Whether the requests topic is not the one that it was, only wider or missed for a while."""
        before, self._requests = self._requests, requests
        return before is None or before.topic_id != requests.topic_id or before.partitions > requests.partitions

    async def _create_topics(self) -> None:
        """Create topics that were deleted as they are created at the start."""
        loop = asyncio.get_running_loop()
        while (parts := self.parts) is not None and None in parts.topic_watch.state.values():
            try:
                await loop.run_in_executor(None, ensure_topics, self.config)
            except (Unreachable, MissingTopic, ConfigError) as error:
                _log.warning("a topic that was deleted can't be created: %s", error)
                await asyncio.sleep(_RETRY)
            else:
                await parts.topic_watch.refresh()

    @property
    def _request_partitions(self) -> int:
        parts = self.parts
        state = parts.topic_watch.state[self.config.requests.topic] if parts is not None else None
        return state.partitions if state is not None else 0

    def _look_at_topics(self) -> None:
        """Something could not be read: perhaps the topics are not what they were."""
        if self.parts is not None:
            self._tasks.begin(self._look(self.parts.topic_watch))

    async def _look(self, watch: TopicWatch) -> None:
        await watch.refresh()

    def _on_lost(self, partition: int) -> None:
        if self.parts is not None:
            self._tasks.begin(self._cut(self.parts, partition)).add_done_callback(_cut)

    async def _cut(self, parts: Parts, partition: int) -> None:
        """The log of a partition was cut, or it is another one's: then the change of its topic brings all in order."""
        before = parts.homes.epoch
        await parts.topic_watch.refresh()
        if parts.homes.epoch == before and not parts.results_topic.changing:
            await parts.joining.cut(partition, parts.registry.sessions.values())

    @property
    def checks(self) -> dict[str, str]:
        """What readiness depends on; everything must be `ok`, Kafka only with `kafka.required_for_readiness`.

        For operators: addresses are in it.
        """
        parts = self.parts
        return {
            "kafka": self._kafka_check,
            "inference": "ok" if parts is not None and parts.readiness.ready else "not ready",
            "gateway": "draining" if self.draining else "ok",
        }

    @property
    def _kafka_check(self) -> str:
        if self.parts is None:
            return masked(f"waiting for {self.waiting_for}")
        away = self.parts.topic_watch.away
        if away is not None:
            return f"no answer from {self.config.kafka.bootstrap_servers}: {masked(away)}"
        dead = self.parts.supervisor.troubles
        troubles = [f"the {name} client is dead: {why}" for name, why in dead.items()]
        return self._why_not_topics or "; ".join(troubles) or "ok"

    @property
    def _why_not_topics(self) -> str | None:
        """Why the topics are not, or not yet, what they should be."""
        parts = self.parts
        if parts is None:
            return "not started"
        if missing := sorted(name for name, state in parts.topic_watch.state.items() if state is None):
            return f"topic {' and '.join(missing)} is missing: it was deleted"
        if parts.results_topic.changing:
            return f"topic {self.config.results.topic} has changed: its partitions are being read anew"
        return None

    @property
    def ready(self) -> bool:
        """Whether the pod is to get traffic."""
        needed = {name for name in self.checks if name != "kafka" or self.parts is None
                  or self.config.kafka.required_for_readiness}  # fmt: skip
        return all(state == "ok" for name, state in self.checks.items() if name in needed)

    async def stop(self) -> None:
        """Leave well: not ready, no new sessions, queued work committed, the group left, the clients sent away in turn.

        Nothing that was accepted is left behind.
        """
        self.draining = True
        parts = self.parts
        if parts is not None:
            end = self.clock() + self.config.shutdown_seconds
            for watch in parts.standstill_watches:
                await watch.close()
            await parts.worker.close(end - self.clock())
            began_draining = self.clock()
            await send_away(parts.registry, self.config.sessions.drain_seconds)
            await parts.registry.emptied(_GOODBYE)
            end += self.clock() - began_draining  # clients have their own time
            # What clients did not get any more is being written to Kafka.
            await parts.dispatcher.close(end - self.clock())
            await parts.registry.close()
            await parts.producer.close(max(1.0, end - self.clock()))
            await parts.reader.close()
            await parts.history.close()
            await parts.lost_requests.close()
            await parts.requests_topic.close()
            await parts.group_progress.close()
            await parts.topic_watch.close()
            await parts.supervisor.close()
            await parts.readiness.close()
            await parts.asking.close()
            await parts.upstream.close()
        await self._tasks.cancel()
        await self.verifier.close()
        if self.tracer is not None:
            await self.tracer.close()
        if self._embedded is not None:
            self._embedded.close()


def _tag(topic: TopicState | None) -> str:
    return "" if topic is None else incarnation_tag(topic.topic_id)


def _cut(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("a partition whose log was cut is not read any more", exc_info=error)
