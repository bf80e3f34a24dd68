"""Looks the topics up, or creates them if that is allowed."""

import hashlib
import logging
import time
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import incarnation_tag
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka.clients import check_files, properties
from podpair.gateway.kafka.topic_limits import TopicLimits

_log = logging.getLogger(__name__)
_TIMEOUT = 5.0  # seconds for each query; a SIGTERM waits for the current one
_NEWS = 2.0  # seconds in which a broker that has just started loads its metadata
_CREATED = 10.0  # seconds in which the brokers notice a topic that was created
NO_TOPIC_IDS = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)  # a broker older than 2.8
MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_NOBODY = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # sixteen bytes of zero


class MissingTopic(Exception):
    """A required topic does not exist, and may not be created."""


class BrokerUnreachable(Exception):
    """No broker answers."""


class Topics(NamedTuple):
    """The topics as the broker describes them."""

    state: dict[
        str, TopicState
    ]  # by name: of requests, results and, if enabled, dead letters, invalidations and deliveries
    requests: TopicState
    results: TopicState
    cluster_id: str
    limits: TopicLimits

    def homes(self, config: Config) -> HomePartitions:
        """Return the home partitions of sessions."""
        return HomePartitions(*epochs(config.results.topic, self.results, self.cluster_id))


def epoch_of(topic: str, state: TopicState, cluster_id: str) -> str:
    """Return the epoch of the results topic, from its id (if the broker has one) and its width, which homes depend on."""
    identity = state.topic_id or cluster_id
    return hashlib.sha256(f"{identity}/{topic}/{state.partitions}".encode()).hexdigest()[:6]


def epochs(topic: str, state: TopicState, cluster_id: str) -> tuple[str, int, frozenset[str]]:
    """Return the epoch of the results topic, its width, and the epochs of the same topic with fewer partitions."""
    narrower = (epoch_of(topic, TopicState(state.topic_id, width), cluster_id) for width in range(1, state.partitions))
    return epoch_of(topic, state, cluster_id), state.partitions, frozenset(narrower)


def topic_tag(topic: TopicState | None) -> str:
    """Return the identity of a topic; empty if there is none, or brokers have no topic ids."""
    return "" if topic is None else incarnation_tag(topic.topic_id)


def ensure_topics(config: Config) -> Topics:
    """Look the topics up, and create missing ones if `kafka.create_topics` allows it. Blocks.

    Raises MissingTopic, which names the topic, BrokerUnreachable, or FaultsError if librdkafka rejects a property.
    """
    refusals: list[KafkaError] = []
    try:
        check_files(config.kafka)
        # Its log records would repeat the reason that is reported.
        admin = AdminClient({"log_level": 0} | properties(config) | {"error_cb": refusals.append})
    except KafkaException as error:
        raise FaultsError([f"kafka.client: {error.args[0].str()}"]) from None
    try:
        return _ensured(config, admin)
    except BrokerUnreachable as error:
        admin.poll(0)  # this calls error_cb
        raise BrokerUnreachable(_why(refusals) or str(error)) from None


def _why(found_errors: list[KafkaError]) -> str | None:
    """Return librdkafka's error besides the timeout: a rejection, with its remedy, or why no broker answers."""
    for error in reversed(found_errors):
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            return (
                f"{error.str()}: check sasl.mechanism, sasl.username and sasl.password in kafka.client or client_files"
            )
        if error.code() == KafkaError._SSL:
            return f"{error.str()}: check security.protocol and the ssl.* properties in kafka.client"
    away = [error.str() for error in found_errors if error.code() in (KafkaError._RESOLVE, KafkaError._TRANSPORT)]
    return away[-1] if away else None


def _ensured(config: Config, admin: AdminClient) -> Topics:
    wanted = {topic.topic: topic for topic in wanted_topics(config)}
    found = _partitions(admin, list(wanted), ask_each=config.kafka.embedded)
    if not all(found.values()) and not config.kafka.create_topics:
        found = _poll_partitions(admin, list(wanted), _NEWS)
        if missing := _missing(found):
            raise MissingTopic(
                f"topic {missing} not found at {config.kafka.bootstrap_servers}:"
                " create it, or allow it with kafka.create_topics: true"
            )
    if not all(found.values()):
        _create(admin, [wanted[name] for name, count in found.items() if count == 0])
        found = _poll_partitions(admin, list(wanted), _CREATED)
        if missing := _missing(found):
            raise BrokerUnreachable(f"topic {missing} was created, but no broker knows it")
    found = _widened(admin, config, found)
    state = _state(admin, config, found)
    requests, results = state[config.requests.topic], state[config.results.topic]
    if requests.partitions != results.partitions:
        _log.warning(
            "topics %s and %s have %d and %d partitions: with equal numbers each gateway reads only its share of results",
            config.requests.topic, config.results.topic, requests.partitions, results.partitions,
        )  # fmt: skip
    cluster_id = str(admin.list_topics(timeout=_TIMEOUT).cluster_id)
    limits = TopicLimits()
    if not config.kafka.embedded:
        limits.ask(admin, list(state), _TIMEOUT)
    return Topics(state, requests, results, cluster_id, limits)


def _widened(admin: AdminClient, config: Config, found: dict[str, int]) -> dict[str, int]:
    """Give the workflows topic as many partitions as the requests topic has, if it may be done. Returns the widths then."""
    topic, width = config.workflows_topic, found[config.requests.topic]
    if topic is None or found[topic] >= width or config.kafka.embedded or not config.kafka.create_topics:
        return found
    for future in admin.create_partitions([NewPartitions(topic, width)], request_timeout=_TIMEOUT).values():
        try:
            future.result()
            _log.info("topic %s has %d partitions now, as many as %s", topic, width, config.requests.topic)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.INVALID_PARTITIONS:  # another gateway was quicker
                raise BrokerUnreachable(f"widening topic {topic}: {error.args[0].str()}") from None
    return found | {topic: width}


def _partitions(admin: AdminClient, names: list[str], *, ask_each: bool) -> dict[str, int]:
    """Return the number of partitions of each topic; 0: missing. ask_each: have the embedded broker create them."""
    try:
        if ask_each:
            for name in names:
                admin.list_topics(name, timeout=_TIMEOUT)
        topics = admin.list_topics(timeout=_TIMEOUT).topics
    except KafkaException as error:
        raise BrokerUnreachable(error.args[0].str()) from None
    return {
        name: len(topics[name].partitions) if name in topics and topics[name].error is None else 0 for name in names
    }


def wanted_topics(config: Config) -> list[NewTopic]:
    """Return the topics as they are created here."""
    requests, results = config.requests, config.results

    def new(name: str, partitions: int, replication: int | None, retention: float | None = None) -> NewTopic:
        kept = {"retention.ms": str(int(retention * 1000)), "cleanup.policy": "delete"} if retention else {}
        return NewTopic(name, num_partitions=partitions, replication_factor=replication or -1, config=kept)

    topics = [
        new(requests.topic, requests.partitions, requests.replication),
        new(results.topic, results.partitions, results.replication, results.retention_seconds),
    ]
    if requests.dead_letter_topic is not None:
        topics.append(new(requests.dead_letter_topic, 1, requests.replication, requests.dead_letter_retention_seconds))
    if config.cache.topic is not None:
        topics.append(new(config.cache.topic, 1, config.cache.replication, config.cache.retention_seconds))
    if config.presence.enabled:
        compacted = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.ms": "600000"}
        copies = config.presence.replication or -1
        topics.append(NewTopic(config.presence.topic, 1, replication_factor=copies, config=compacted))
    if config.deliveries.enabled:
        topics += _of_deliveries(config)
    if config.workflows_topic is not None:
        copies = config.workflows.replication or -1
        compacted = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}
        topics.append(
            NewTopic(config.workflows_topic, requests.partitions, replication_factor=copies, config=compacted)
        )
    return topics


def _of_deliveries(config: Config) -> list[NewTopic]:
    deliveries = config.deliveries
    copies = deliveries.replication or -1

    def new(name: str, partitions: int, kept: dict[str, str]) -> NewTopic:
        return NewTopic(name, num_partitions=partitions, replication_factor=copies, config=kept)

    def for_seconds(seconds: float) -> dict[str, str]:
        return {"retention.ms": str(int(seconds * 1000)), "cleanup.policy": "delete"}

    waiting = for_seconds(deliveries.max_age_seconds + 86_400)  # whatever waits has been given up by then
    return [
        new(deliveries.subscriptions_topic, 1, {"cleanup.policy": "compact", "segment.ms": "3600000"}),
        new(deliveries.retry_topic, len(deliveries.retry_seconds), waiting),
        new(deliveries.ordered_topic, config.results.partitions, waiting),
        new(deliveries.dead_letter_topic, 1, for_seconds(deliveries.dead_letter_retention_seconds)),
    ]


def _create(admin: AdminClient, missing: list[NewTopic]) -> None:
    for name, future in admin.create_topics(missing, request_timeout=_TIMEOUT).items():
        try:
            future.result()
            _log.info("created topic %s", name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another gateway was quicker
                raise MissingTopic(f"topic {name} not found, and creating it failed: {error.args[0].str()}") from None


def _poll_partitions(admin: AdminClient, names: list[str], seconds: float) -> dict[str, int]:
    """Return the number of partitions of each topic, as soon as a broker knows all of them, or after some seconds.

    A broker that has just started knows no topic for a moment, and another one learns late of topics that were created.
    """
    end = time.monotonic() + seconds
    while not all((found := _partitions(admin, names, ask_each=False)).values()) and time.monotonic() < end:
        admin.poll(0.1)
    return found


def _missing(found: dict[str, int]) -> str:
    return " and ".join(name for name, count in found.items() if count == 0)


def _state(admin: AdminClient, config: Config, found: dict[str, int]) -> dict[str, TopicState]:
    """Return the topics' states with their ids. Without topic ids, positions are distinguished by the cluster id."""
    without_ids = {name: TopicState(None, partitions) for name, partitions in found.items()}
    if config.kafka.embedded:
        return without_ids
    try:
        described = describe(admin, list(found), _TIMEOUT)
    except KafkaException as error:
        raise BrokerUnreachable(f"querying the ids of the topics: {error.args[0].str()}") from None
    state: dict[str, TopicState] = {}
    for name, answer in described.items():
        if not isinstance(answer, KafkaError):
            state[name] = answer
        elif answer.code() in NO_TOPIC_IDS:
            _log.info("the broker has no topic ids (%s): positions are distinguished by its cluster id", answer.str())
            return without_ids
        else:  # another identity would cut every session off from its past
            raise BrokerUnreachable(f"querying the id of {name}: {answer.str()}")
    return state


def describe(admin: AdminClient, names: list[str], timeout: float) -> dict[str, TopicState | KafkaError]:
    """Return, by topic, its id and width, or the error of the query. Blocks for `timeout` seconds at most.

    Raises KafkaException if no broker answers.
    """
    described: dict[str, TopicState | KafkaError] = {}
    for name, future in admin.describe_topics(TopicCollection(names), request_timeout=timeout).items():
        try:
            found = future.result()
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() in _NOBODY:
                raise
            described[name] = reason
        else:
            topic_id = str(found.topic_id)
            described[name] = TopicState(None if topic_id == _NO_ID else topic_id, len(found.partitions))
    return described


def widths(admin: AdminClient, names: list[str], timeout: float) -> dict[str, TopicState | KafkaError]:
    """Do the same as `describe`, for a broker without topic ids."""
    described: dict[str, TopicState | KafkaError] = {}
    for name in names:
        topic = admin.list_topics(name, timeout=timeout).topics[name]
        described[name] = TopicState(None, len(topic.partitions)) if topic.error is None else topic.error
    return described
