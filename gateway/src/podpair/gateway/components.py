"""The composition root: which components a gateway has once the broker is reachable, and who knows whom.

Components that call each other in a circle know the other by a lambda, which looks it up when it is called.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from podpair.common.gateway_config.model import Config
from podpair.gateway.auth.resume import Issuer
from podpair.gateway.core.latency_estimate import LatencyEstimator
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.deliveries.service import DeliveryContext, DeliveryService
from podpair.gateway.kafka.group_progress import GroupProgress
from podpair.gateway.kafka.invalidations import Invalidator
from podpair.gateway.kafka.log_reader import LogReader, ResultsLog
from podpair.gateway.kafka.producer import RecordProducer
from podpair.gateway.kafka.requests import Gate
from podpair.gateway.kafka.results import ResultsHooks, ResultsReader
from podpair.gateway.kafka.stall_watch import StallWatch, WatchedReader
from podpair.gateway.kafka.supervisor import Supervisor
from podpair.gateway.kafka.topic_watch import TopicWatch
from podpair.gateway.kafka.topics import Topics, topic_tag
from podpair.gateway.kafka.transactions import Transactions
from podpair.gateway.kafka.unread_results import UnreadResultsWatch
from podpair.gateway.kafka.workflows_log import going_on
from podpair.gateway.results.replies import ReplyWriter
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.sessions.cancellation import CancellationPublisher
from podpair.gateway.sessions.channels import Channels, make_channels
from podpair.gateway.sessions.connection import BackpressureMonitor
from podpair.gateway.sessions.dispatch import Dispatcher
from podpair.gateway.sessions.enqueue import RecordWriters
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.lost_requests import LostRequests, RequestsLookup
from podpair.gateway.sessions.misplaced_records import MisplacedRecords
from podpair.gateway.sessions.presence import PresenceContext, PresenceService
from podpair.gateway.sessions.registry import Registry, RegistryHooks
from podpair.gateway.sessions.requests_topic import RequestsTopic
from podpair.gateway.sessions.results_topic import ResultsTopic
from podpair.gateway.sessions.resume import ResumeService
from podpair.gateway.sessions.signals import SignalPublisher
from podpair.gateway.sessions.takeovers import Takeovers
from podpair.gateway.tracing import Telemetry
from podpair.gateway.upstream.cached_client import CachedInferenceClient, make_caches
from podpair.gateway.upstream.client import InferenceClient
from podpair.gateway.upstream.factory import ModelAccess, make_upstream
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.upstream.routes import may_be_workflow
from podpair.gateway.upstream.traced import TracedUpstream
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.worker.delivery import AtLeastOnce, Delivery, ExactlyOnce, Outputs
from podpair.gateway.worker.engine import RequestEngine
from podpair.gateway.worker.worker import TopicHooks, Work, Worker

if TYPE_CHECKING:
    from podpair.gateway.amqp.source import AmqpSource
    from podpair.gateway.workflows.host import WorkflowHost


@dataclass(frozen=True, slots=True)
class KafkaClients:
    """What talks to the broker, but for the worker's consumer and its transactions."""

    supervisor: Supervisor
    topic_watch: TopicWatch
    producer: RecordProducer
    reader: ResultsReader
    log_reader: LogReader
    progress: GroupProgress
    invalidator: Invalidator | None
    """Reads the invalidation topic, if there is one."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """What clients are served by."""

    registry: Registry
    fanout: FanOut
    resume: ResumeService
    takeovers: Takeovers
    dispatcher: Dispatcher
    backpressure: BackpressureMonitor


@dataclass(frozen=True, slots=True)
class TopicFollowers:
    """What follows the topics as they change, are truncated, or are not read."""

    results: ResultsTopic
    requests: RequestsTopic
    lost_requests: LostRequests
    watches: list[StallWatch | UnreadResultsWatch]


@dataclass(frozen=True, slots=True)
class Components:
    """The components that run once the broker is reachable."""

    model: ModelAccess
    kafka: KafkaClients
    sessions: Sessions
    topics: TopicFollowers
    worker: Worker
    amqp: "AmqpSource | None"
    """Takes requests from RabbitMQ, if that is a source of them."""
    deliveries: DeliveryService | None
    workflows: "WorkflowHost | None"
    channels: Channels | None
    presence: PresenceService | None

    @property
    def homes(self) -> HomePartitions:
        """The home partitions of sessions."""
        return self.topics.results.homes


@dataclass(frozen=True, slots=True)
class TopicCallbacks:
    """What the components tell and ask the service of the topics."""

    on_change: Callable[[str, TopicState | None, TopicState | None], None]
    """Hears of a topic that was deleted, created again, widened or narrowed: its name, what it was and is."""
    on_truncated: Callable[[int], None]
    """Hears of a results partition whose log was truncated."""
    refresh: Callable[[], None]
    """Has the topics looked at now: something could not be read."""
    request_partitions: Callable[[], int]
    """Returns the number of partitions of the requests topic; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class Context:
    """What all components are made with."""

    config: Config
    issuer: Issuer
    telemetry: Telemetry
    clock: Callable[[], float]
    callbacks: TopicCallbacks


class Assembly:
    """Makes the components and starts them. undo: stops those that were started if a later one fails."""

    def __init__(self, context: Context, topics: Topics, undo: AsyncExitStack) -> None:
        self._context = context
        self._config = context.config
        self._name = context.issuer.gateway
        self._metrics = context.telemetry.metrics
        self._topics = topics
        self._homes = topics.homes(context.config)
        self._undo = undo

    def start(self) -> Components:
        """Start everything. Raises KafkaException if a client's properties are at fault."""
        self._model = self._start_model()
        self._start_clients()
        self._worker = self._start_worker()
        self._amqp = self._start_amqp()
        self._start_fanout()
        self._start_resume()
        self._start_channels()
        sessions = Sessions(
            self._registry,
            self._fanout,
            self._resume,
            Takeovers(self._producer, self._config.results.topic, self._name),
            self._dispatcher,
            self._backpressure,
        )
        clients = KafkaClients(
            self._supervisor, self._topic_watch, self._producer, self._reader, self._log_reader, self._progress,
            self._invalidator,
        )  # fmt: skip
        return Components(
            self._model, clients, sessions, self._start_followers(), self._worker, self._amqp, self._start_deliveries(),
            self._workflows, self._channels, self._presence,
        )  # fmt: skip

    def _start_model(self) -> ModelAccess:
        config, telemetry = self._config, self._context.telemetry
        upstream = make_upstream(config.inference)
        if telemetry.tracer is not None:
            upstream = TracedUpstream(upstream, telemetry.tracer)
        self._undo.push_async_callback(upstream.close)
        readiness = Readiness(upstream, config.inference.probe_seconds)
        self._undo.push_async_callback(readiness.close)
        readiness.on_change(self._metrics.ready.set)
        caches = make_caches(config.cache, self._metrics)
        if caches is None:
            client = InferenceClient(config, upstream, readiness, self._metrics)
        else:
            client = CachedInferenceClient(config, upstream, readiness, self._metrics, caches)
        self._undo.push_async_callback(client.close)
        return ModelAccess(upstream, client, readiness, LatencyEstimator(), caches)

    def _start_clients(self) -> None:
        config, metrics = self._config, self._metrics
        self._supervisor = Supervisor(metrics)
        self._undo.push_async_callback(self._supervisor.close)
        self._topic_watch = TopicWatch(config, metrics, self._topics, self._context.callbacks.on_change)
        self._undo.push_async_callback(self._topic_watch.close)
        self._producer = RecordProducer(
            config, metrics, self._topic_watch, self._supervisor, batch_bytes=self._topics.limits.batch_bytes
        )
        self._undo.push_async_callback(self._producer.close, 1.0)
        self._results = ResultWriter(self._producer, config.results.topic, self._name, self._topics.limits, self._homes)
        self._progress = GroupProgress(config, self._topic_watch.admin)
        self._undo.push_async_callback(self._progress.close)
        self._invalidator: Invalidator | None = None
        if config.cache.topic is not None and self._model.caches is not None:
            self._invalidator = Invalidator(config, self._model.caches, metrics, self._supervisor)
            self._undo.push_async_callback(self._invalidator.close)

    def _start_worker(self) -> Worker:
        config = self._config
        delivery = self._make_delivery()
        self._undo.push_async_callback(delivery.close)
        gate = Gate(config.requests.in_flight)
        replies = ReplyWriter(config.requests.reply_topics)
        dead_letters = DeadLetters(config.requests.dead_letter_topic, self._name, self._metrics)
        self._workflows = self._make_workflows(dead_letters, replies)
        self._engine = RequestEngine(
            config.requests,
            self._model,
            Outputs(self._results, dead_letters, delivery, replies, self._workflows),
            gate,
            self._context.telemetry,
            lambda session, request: self._dispatcher.cancelled_elsewhere(session, request),
        )
        hooks = TopicHooks(
            lambda: topic_tag(self._topic_watch.state[config.requests.topic]),
            lambda: self._requests_topic.check_soon(),
        )
        work = Work(self._engine, delivery, gate, self._workflows)
        worker = Worker(config, work, self._model.readiness, self._metrics, self._supervisor, hooks)
        self._undo.push_async_callback(worker.close, 0.0)
        return worker

    def _start_amqp(self) -> "AmqpSource | None":
        """Start to take requests from RabbitMQ, if they come from there; its client is imported only then."""
        engine, amqp = self._engine, None
        if self._config.requests.source != "kafka":
            from podpair.gateway.amqp.source import AmqpSource

            amqp = AmqpSource(
                self._config, self._model, self._producer, self._results, self._context.telemetry, self._name
            )
            self._undo.push_async_callback(amqp.close, 0.0)
        self._metrics.working.set_function(lambda: engine.in_hand + (amqp.in_hand if amqp is not None else 0))
        return amqp

    def _make_workflows(self, dead_letters: DeadLetters, replies: ReplyWriter) -> "WorkflowHost | None":
        config = self._config
        if config.workflows_topic is None:
            return None
        from podpair.gateway.workflows.factory import WorkflowParts, make_host  # only who has workflows pays for it

        parts = WorkflowParts(self._results, dead_letters, replies, self._model, self._producer, self._metrics)
        host = make_host(config, self._name, self._topics.limits, parts)
        self._undo.push_async_callback(host.close)
        return host

    def _make_delivery(self) -> Delivery:
        requests = self._config.requests
        if not requests.exactly_once:
            return AtLeastOnce(self._producer, lambda done: self._engine.on_delivered(done))
        # A pod with a stable name fences the transaction that it left open, so that nobody waits for its timeout.
        name = f"{requests.group}.{requests.group_instance_id or self._name}"
        batch_bytes = self._topics.limits.batch_bytes
        transactions = Transactions(self._config, name, batch_bytes, self._metrics, self._supervisor)
        return ExactlyOnce(transactions, lambda done: self._engine.on_delivered(done), lambda: self._worker.membership)

    def _start_fanout(self) -> None:
        config, metrics, homes, callbacks = self._config, self._metrics, self._homes, self._context.callbacks
        hooks = RegistryHooks(
            retain=lambda session: self._reader.retain(session),
            on_undelivered=lambda session, events: self._dispatcher.on_undelivered(session, events),
            on_disconnect=lambda session: self._dispatcher.on_disconnect(session),
            on_presence=lambda session: self._presence.changed(session) if self._presence else None,
            on_leave=lambda session: self._channels.subscriptions.leave(session) if self._channels else None,
        )
        self._registry = Registry(config, homes, lambda: self._worker.owned, hooks, metrics)
        # Requests and results have as many partitions, unless one was widened: one gateway is responsible for both of a number.
        self._misplaced = MisplacedRecords(
            config.results.topic,
            metrics,
            homes,
            lambda partition: partition % (callbacks.request_partitions() or 1) in self._worker.owned,
            users=config.results.users,
        )
        self._fanout = FanOut(
            self._registry,
            config.results.tail_cache_bytes,
            self._misplaced,
            lambda log: self._resume.on_lagging(log),
            metrics,
            self._context.clock,
        )
        reading = ResultsHooks(
            opened=self._fanout.open,
            closed=self._fanout.close,
            deliver=self._fanout.deliver,
            lost=callbacks.on_truncated,
            failed=callbacks.refresh,
            reached=lambda partition: self._fanout.tails[partition].end,
        )
        self._reader = ResultsReader(config, homes, self._supervisor, reading, self._topic_watch)
        self._undo.push_async_callback(self._reader.close)
        metrics.homes.set_function(lambda: self._reader.partitions)
        self._log_reader = LogReader(config, self._supervisor)
        self._undo.push_async_callback(self._log_reader.close)
        self._backpressure = BackpressureMonitor(config.sessions.slow_consumer_timeout_seconds, self._context.clock)
        metrics.slow.set_function(lambda: self._backpressure.congested)

    def _start_resume(self) -> None:
        config, metrics, callbacks = self._config, self._metrics, self._context.callbacks
        runs = self._workflows is not None
        self._lookup = RequestsLookup(
            self._log_reader, self._progress, callbacks.request_partitions,
            partial(may_be_workflow, self._model.client) if runs else None, partial(going_on, config) if runs else None,
        )  # fmt: skip
        self._requests_topic = RequestsTopic(
            self._registry.sessions,
            self._worker,
            None if config.kafka.embedded else self._lookup,
            topic_tag(self._topics.requests),
            lambda session: self._resume.resume_token(session),
            metrics,
        )
        self._undo.push_async_callback(self._requests_topic.close)
        self._log = ResultsLog(self._homes, self._topics.limits, self._reader, self._log_reader)
        self._resume = ResumeService(
            config, self._context.issuer, self._log, self._fanout, self._requests_topic, metrics
        )
        cancellations = CancellationPublisher(config, self._name, self._producer, callbacks.request_partitions, metrics)
        signals = SignalPublisher(config, self._name, self._producer, callbacks.request_partitions)
        writers = RecordWriters(self._producer, self._topics.limits, cancellations, signals, self._results, self._name)
        self._dispatcher = Dispatcher(
            config, self._model, writers, self._registry, self._resume.record_at, self._context.telemetry
        )

    def _start_deliveries(self) -> DeliveryService | None:
        if not self._config.deliveries.enabled:
            return None
        about = (self._config, self._name, self._producer, self._supervisor, self._topic_watch, self._metrics)
        return DeliveryService(DeliveryContext(*about, self._registry.received))

    def _start_channels(self) -> None:
        config, metrics, log, refresh = self._config, self._metrics, self._log, self._topic_watch.refresh
        self._channels = make_channels(
            config, self._name, log, self._registry, self._resume, self._producer, refresh, metrics
        )
        self._presence: PresenceService | None = None
        if config.presence.enabled:
            about = (config, self._name, self._producer, self._supervisor, self._registry.sessions, metrics)
            self._presence = PresenceService(PresenceContext(*about))
            self._undo.push_async_callback(self._presence.close)
        if self._channels is not None:
            self._undo.push_async_callback(self._channels.close)

    def _start_followers(self) -> TopicFollowers:
        config = self._config
        lost_requests = LostRequests(
            config, self._registry.sessions, self._fanout, self._lookup, self._dispatcher.fail_queued
        )
        results = ResultsTopic(config, self._topics, self._log, self._resume, self._registry)
        results.subscriptions = None if self._channels is None else self._channels.subscriptions
        watches = [] if config.kafka.embedded else self._start_watches()
        return TopicFollowers(results, self._requests_topic, lost_requests, watches)

    def _start_watches(self) -> list[StallWatch | UnreadResultsWatch]:
        config, reader, worker, misplaced = self._config, self._reader, self._worker, self._misplaced
        sessions, tails = self._registry.sessions, self._fanout.tails
        requests = WatchedReader(
            lambda: worker.reached,
            worker.stalled,
            held=lambda: worker.held,
            others=lambda: worker.owned,
            on_ends=worker.log_ends,
        )
        return [
            UnreadResultsWatch(
                config,
                self._homes,
                self._progress,
                lambda: {p for p in range(self._homes.partitions) if misplaced.responsible_for(p)} - tails.keys(),
                lambda partition, records: misplaced.handle_sampled(partition, records, sessions.keys()),
            ),
            StallWatch(
                config, config.results.topic, self._progress, WatchedReader(lambda: reader.reached, reader.stalled)
            ),
            StallWatch(config, config.requests.topic, self._progress, requests),
        ]
