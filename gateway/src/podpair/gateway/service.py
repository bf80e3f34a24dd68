"""Builds the gateway's components, starts them, and drains and stops them at SIGTERM, in the right order."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack

from confluent_kafka import KafkaException

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.model import Config
from podpair.common.redaction import redact
from podpair.gateway.auth.resume import Issuer, ResumeTokens
from podpair.gateway.auth.tokens import TokenVerifier
from podpair.gateway.components import Assembly, Components, Context, TopicCallbacks
from podpair.gateway.core.quotas import Quotas, Rule
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka.clients import gateway_name
from podpair.gateway.kafka.embedded import EmbeddedKafka
from podpair.gateway.kafka.topic_watch import TopicWatch
from podpair.gateway.kafka.topics import BrokerUnreachable, MissingTopic, Topics, ensure_topics, topic_tag
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.drain import drain_sessions
from podpair.gateway.tasks import Tasks
from podpair.gateway.tracing import Telemetry, make_tracer

_log = logging.getLogger(__name__)
_GOODBYE = 5.0  # seconds that clients may take to answer their close frames
_RETRY = 1.0  # seconds between attempts to reach the broker at start


class Service:
    """One gateway. Raises FaultsError if a key or secret that the configuration names can't be read."""

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics()
        self.clock: Callable[[], float] = time.monotonic
        self.verifier = TokenVerifier(config.auth, lambda outcome: self.metrics.jwks_fetches.labels(outcome).inc())
        self.metrics.auth_ready.set_function(lambda: self.verifier.trouble is None)
        self.tokens = ResumeTokens(config.sessions)
        self.quotas = Quotas(Rule(**dict(rule)) for rule in config.admission.rules)
        self.name = gateway_name()
        self.tracer = make_tracer(config.tracing, self.name)
        self.draining = False
        self._requests: TopicState | None = None  # the last known state of the requests topic
        self.components: Components | None = None  # set once the broker is reachable
        self._tasks = Tasks()
        self.on_stop: list[
            Callable[[float], Coroutine[None, None, None]]
        ] = []  # end work in hand, within so many seconds
        self.waiting_for = "the broker"  # why there are no components yet
        self._embedded: EmbeddedKafka | None = None
        if config.kafka.embedded:
            self._embedded = EmbeddedKafka()
            kafka = config.kafka.model_copy(update={"bootstrap_servers": self._embedded.bootstrap_servers})
            config = config.model_copy(update={"kafka": kafka})
            _log.info("embedded Kafka at %s", kafka.bootstrap_servers, extra={"kafka": kafka.bootstrap_servers})
        self.config = config
        if config.auth.disabled:
            _log.warning("auth.disabled: everyone is accepted")
        if not self.tokens.shared:
            _log.warning(
                "sessions.resume_secret is not set: sessions can't resume at another gateway, or after a restart"
            )

    async def start(self) -> None:
        """Wait for the broker, however long that takes, and start the components. Raises MissingTopic or FaultsError."""
        self._tasks.spawn(self.verifier.keep_keys())
        topics = await self._topics()
        self._requests = topics.requests
        self.metrics.topics_ready.set_function(lambda: self._topics_error is None)
        async with AsyncExitStack() as undo:
            try:
                self.components = Assembly(self._context(), topics, undo).start()
            except KafkaException as error:  # each client checks other properties
                raise FaultsError([f"kafka.client: {error.args[0].str()}"]) from None
            undo.pop_all()

    def _context(self) -> Context:
        callbacks = TopicCallbacks(
            self._on_topic_change, self._on_truncated, self._refresh_topics, lambda: self._request_partitions
        )
        telemetry = Telemetry(self.metrics, self.tracer)
        return Context(self.config, Issuer(self.name, self.tokens), telemetry, self.clock, callbacks)

    async def _topics(self) -> Topics:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(None, ensure_topics, self.config)
            except BrokerUnreachable as error:
                self.waiting_for = f"the broker at {self.config.kafka.bootstrap_servers}: {error}"
            except MissingTopic as error:
                if not self.config.kafka.await_topics:
                    raise
                self.waiting_for = str(error)
            _log.warning("waiting for %s", self.waiting_for)
            await asyncio.sleep(_RETRY)

    def _on_topic_change(self, topic: str, old: TopicState | None, new: TopicState | None) -> None:
        """Handle a topic that was deleted, created again, widened or narrowed from outside."""
        components = self.components
        if components is None:
            return
        if new is None:
            if self.config.kafka.create_topics:
                self._tasks.spawn(self._create_topics())
            return
        if old is None or old.topic_id != new.topic_id:
            components.kafka.producer.topic_replaced()
            if components.deliveries is not None:
                components.deliveries.topic_replaced(topic)
            if components.presence is not None and topic == self.config.presence.topic:
                components.presence.topic_replaced()
        self._tasks.spawn(components.kafka.producer.learn(topic))
        if topic == self.config.results.topic:
            components.topics.results.changed(new)
            components.sessions.takeovers.announce_again(components.sessions.registry.sessions.values())
        elif topic == self.config.requests.topic and self._is_another(new):
            components.worker.restart()
            self._tasks.spawn(components.topics.lost_requests.requests_changed())
            components.topics.requests.changed(topic_tag(new))
        elif topic == self.config.requests.topic and components.workflows is not None:
            self._tasks.spawn(self._create_topics(widened=True))

    def _is_another(self, requests: TopicState) -> bool:
        """Return whether the requests topic was replaced, rather than widened or missing for a while."""
        before, self._requests = self._requests, requests
        return before is None or before.topic_id != requests.topic_id or before.partitions > requests.partitions

    async def _create_topics(self, *, widened: bool = False) -> None:
        """Create deleted topics again, as at the start. widened: give the workflows topic the width of the requests topic."""
        loop = asyncio.get_running_loop()
        while (components := self.components) is not None and (
            widened or None in components.kafka.topic_watch.state.values()
        ):
            try:
                await loop.run_in_executor(None, ensure_topics, self.config)
            except (BrokerUnreachable, MissingTopic, FaultsError) as error:
                _log.warning("a topic that was deleted can't be created: %s", error)
                await asyncio.sleep(_RETRY)
            else:
                widened = False
                await components.kafka.topic_watch.refresh()

    @property
    def _request_partitions(self) -> int:
        components = self.components
        state = components.kafka.topic_watch.state[self.config.requests.topic] if components is not None else None
        return state.partitions if state is not None else 0

    def _refresh_topics(self) -> None:
        """Refresh the topics, because reading failed: they may have changed."""
        if self.components is not None:
            self._tasks.spawn(self._refresh(self.components.kafka.topic_watch))

    async def _refresh(self, watch: TopicWatch) -> None:
        await watch.refresh()

    def _on_truncated(self, partition: int) -> None:
        if self.components is not None:
            self._tasks.spawn(self._handle_truncation(self.components, partition)).add_done_callback(
                _log_truncation_failure
            )

    async def _handle_truncation(self, components: Components, partition: int) -> None:
        """Handle a truncated log, unless its topic was replaced: then that change is handled instead."""
        before, sessions = components.homes.epoch, components.sessions.registry.sessions
        await components.kafka.topic_watch.refresh()
        while components.homes.epoch == before and not components.topics.results.changing:
            try:
                await components.sessions.resume.on_log_truncated(partition, sessions.values())
            except KafkaException as error:
                _log.warning("a log that was truncated can't be read yet: %s", error.args[0].str())
                await asyncio.sleep(_RETRY)
            else:
                return

    @property
    def checks(self) -> dict[str, str]:
        """The checks of readiness; all but `cache` and `presence` must be `ok`, Kafka only with `kafka.required_for_readiness`.

        For operators: they contain addresses.
        """
        components = self.components
        issuer = {"issuer": redact(self.verifier.trouble or "ok")} if self.config.auth.jwks_url is not None else {}
        invalidator = components.kafka.invalidator if components is not None else None
        cache = {"cache": redact(invalidator.trouble or "ok")} if invalidator is not None else {}
        amqp = {"amqp": self._amqp_check} if self.config.requests.source != "kafka" else {}
        host = components.workflows if components is not None else None
        workflows = {"workflows": redact(host.trouble or "ok")} if host is not None else {}
        known = components.presence if components is not None else None
        presence = {"presence": redact(known.trouble or "ok")} if known is not None else {}
        return (
            issuer
            | presence
            | cache
            | amqp
            | workflows
            | {
                "kafka": self._kafka_check,
                "inference": "ok" if components is not None and components.model.readiness.ready else "not ready",
                "gateway": "draining" if self.draining else "ok",
            }
        )

    @property
    def _amqp_check(self) -> str:
        if self.components is None or self.components.amqp is None:
            return "not started"
        return redact(self.components.amqp.trouble or "ok")

    @property
    def _kafka_check(self) -> str:
        if self.components is None:
            return redact(f"waiting for {self.waiting_for}")
        broker_error = self.components.kafka.topic_watch.broker_error
        if broker_error is not None:
            return f"no answer from {self.config.kafka.bootstrap_servers}: {redact(broker_error)}"
        dead = self.components.kafka.supervisor.troubles
        troubles = [f"the {name} client is dead: {why}" for name, why in dead.items()]
        return self._topics_error or "; ".join(troubles) or "ok"

    @property
    def _topics_error(self) -> str | None:
        """Why the topics are not as required."""
        components = self.components
        if components is None:
            return "not started"
        if missing := sorted(name for name, state in components.kafka.topic_watch.state.items() if state is None):
            return f"topic {' and '.join(missing)} is missing: it was deleted"
        if components.topics.results.changing:
            return f"topic {self.config.results.topic} has changed: its partitions are being read anew"
        return None

    @property
    def ready(self) -> bool:
        """Whether the pod should get traffic."""
        optional = {"cache", "presence"}  # without the one the model answers, without the other a query is refused
        if not self.config.kafka.required_for_readiness and self.components is not None:
            optional.add("kafka")
        if not self.config.amqp.required_for_readiness:
            optional.add("amqp")
        return all(state == "ok" for name, state in self.checks.items() if name not in optional)

    async def stop(self) -> None:
        """Shut down: not ready, no new sessions, queued requests committed, the group left, the clients drained.

        No accepted request is lost.
        """
        self.draining = True
        components = self.components
        if components is not None:
            end = self.clock() + self.config.shutdown_seconds
            for watch in components.topics.watches:
                await watch.close()
            closing = [components.worker.close(end - self.clock())]
            if components.amqp is not None:
                closing.append(components.amqp.close(end - self.clock()))
            closing += [stop(end - self.clock()) for stop in self.on_stop]
            for error in await asyncio.gather(*closing, return_exceptions=True):
                if isinstance(error, Exception):  # the others, and the clients, are taken leave of all the same
                    _log.error("a part did not close as it should", exc_info=error)
            if components.deliveries is not None:
                await components.deliveries.close(end - self.clock())
            began_draining = self.clock()
            await drain_sessions(components.sessions.registry, self.config.sessions.drain_seconds)
            await components.sessions.registry.wait_empty(_GOODBYE)
            end += self.clock() - began_draining  # draining has its own time
            # Events that clients did not get are being written to Kafka.
            await components.sessions.dispatcher.close(end - self.clock())
            if components.channels is not None:
                await components.channels.subscriptions.close()
            if components.presence is not None:
                await components.presence.close()
            await components.sessions.registry.close()
            await components.kafka.producer.close(max(1.0, end - self.clock()))
            await components.kafka.reader.close()
            await components.kafka.log_reader.close()
            if components.kafka.invalidator is not None:
                await components.kafka.invalidator.close()
            await components.topics.lost_requests.close()
            await components.topics.requests.close()
            await components.kafka.progress.close()
            await components.kafka.topic_watch.close()
            await components.kafka.supervisor.close()
            await components.model.readiness.close()
            await components.model.client.close()
            await components.model.upstream.close()
        await self._tasks.cancel()
        await self.verifier.close()
        if self.tracer is not None:
            await self.tracer.close()
        if self._embedded is not None:
            self._embedded.close()


def _log_truncation_failure(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("a partition whose log was truncated is not read any more", exc_info=error)
