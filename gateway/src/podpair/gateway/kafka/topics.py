"""The topics: found, or created where that is allowed, or missed by name."""

import hashlib
import logging
import time
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka.clients import check_files, properties
from podpair.gateway.kafka.topic_limits import TopicLimits

_log = logging.getLogger(__name__)
_TIMEOUT = 5.0  # seconds for each question to the broker; a SIGTERM waits for the one in hand
_NEWS = 2.0  # seconds in which a broker that has just started is to learn what topics there are
_CREATED = 10.0  # seconds in which the brokers are to learn of a topic that was created
NO_TOPIC_IDS = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)  # a broker older than 2.8
MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_NOBODY = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # sixteen bytes of zero


class MissingTopic(Exception):
    """A topic that has to be there is not, and may not be created."""


class Unreachable(Exception):
    """No broker answers."""


class Topics(NamedTuple):
    """What the broker says about them."""

    state: dict[str, TopicState]  # by name: of requests, results and, where there is to be one, dead letters
    requests: TopicState
    results: TopicState
    cluster_id: str
    limits: TopicLimits

    def homes(self, config: Config) -> HomePartitions:
        """Where sessions' results are."""
        return HomePartitions(*epochs(config.results.topic, self.results, self.cluster_id))


def epoch_of(topic: str, state: TopicState, cluster_id: str) -> str:
    """Name an incarnation of the results topic: by its id where the broker has one, and its width, which homes hang on."""
    identity = state.topic_id or cluster_id
    return hashlib.sha256(f"{identity}/{topic}/{state.partitions}".encode()).hexdigest()[:6]


def epochs(topic: str, state: TopicState, cluster_id: str) -> tuple[str, int, frozenset[str]]:
    """The epoch of the results topic, its width, and the epochs that the same topic has with fewer partitions."""
    narrower = (epoch_of(topic, TopicState(state.topic_id, width), cluster_id) for width in range(1, state.partitions))
    return epoch_of(topic, state, cluster_id), state.partitions, frozenset(narrower)


def ensure_topics(config: Config) -> Topics:
    """Look the topics up, and create what is missing where `kafka.create_topics` allows it. Blocks.

    Raises MissingTopic, which names the topic, Unreachable, or ConfigError where librdkafka refuses a property.
    """
    refusals: list[KafkaError] = []
    try:
        check_files(config.kafka)
        # What it would log is in the reason that is given.
        admin = AdminClient({"log_level": 0} | properties(config) | {"error_cb": refusals.append})
    except KafkaException as error:
        raise ConfigError([f"kafka.client: {error.args[0].str()}"]) from None
    try:
        return _ensured(config, admin)
    except Unreachable as error:
        admin.poll(0)  # what librdkafka has to tell waits for that
        raise Unreachable(_why(refusals) or str(error)) from None


def _why(told: list[KafkaError]) -> str | None:
    """What librdkafka told besides the time that has run out: that it was refused, and how that is mended; or why nobody
    answers.
    """
    for error in reversed(told):
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            return (
                f"{error.str()}: check sasl.mechanism, sasl.username and sasl.password in kafka.client or client_files"
            )
        if error.code() == KafkaError._SSL:
            return f"{error.str()}: check security.protocol and the ssl.* properties in kafka.client"
    away = [error.str() for error in told if error.code() in (KafkaError._RESOLVE, KafkaError._TRANSPORT)]
    return away[-1] if away else None


def _ensured(config: Config, admin: AdminClient) -> Topics:
    wanted = {topic.topic: topic for topic in _wanted(config)}
    found = _partitions(admin, list(wanted), ask_each=config.kafka.embedded)
    if not all(found.values()) and not config.kafka.create_topics:
        found = _looked_again(admin, list(wanted), _NEWS)
        if missing := _missing(found):
            raise MissingTopic(
                f"topic {missing} not found at {config.kafka.bootstrap_servers}:"
                " create it, or allow it with kafka.create_topics: true"
            )
    if not all(found.values()):
        _create(admin, [wanted[name] for name, count in found.items() if count == 0])
        found = _looked_again(admin, list(wanted), _CREATED)
        if missing := _missing(found):
            raise Unreachable(f"topic {missing} was created, but no broker tells of it")
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


def _partitions(admin: AdminClient, names: list[str], *, ask_each: bool) -> dict[str, int]:
    """The number of partitions of each topic; 0: not there. `ask_each` makes the embedded broker create them."""
    try:
        if ask_each:
            for name in names:
                admin.list_topics(name, timeout=_TIMEOUT)
        topics = admin.list_topics(timeout=_TIMEOUT).topics
    except KafkaException as error:
        raise Unreachable(error.args[0].str()) from None
    return {
        name: len(topics[name].partitions) if name in topics and topics[name].error is None else 0 for name in names
    }


def _wanted(config: Config) -> list[NewTopic]:
    """The topics as they are created here."""
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
    return topics


def _create(admin: AdminClient, missing: list[NewTopic]) -> None:
    for name, future in admin.create_topics(missing, request_timeout=_TIMEOUT).items():
        try:
            future.result()
            _log.info("created topic %s", name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another gateway was quicker
                raise MissingTopic(f"topic {name} not found, and creating it failed: {error.args[0].str()}") from None


def _looked_again(admin: AdminClient, names: list[str], seconds: float) -> dict[str, int]:
    """The number of partitions of each topic, as soon as a broker tells of all of them.

    One that has just started knows of no topic for a moment, and another knows late of what the controller has created.
    """
    end = time.monotonic() + seconds
    while not all((found := _partitions(admin, names, ask_each=False)).values()) and time.monotonic() < end:
        admin.poll(0.1)
    return found


def _missing(found: dict[str, int]) -> str:
    return " and ".join(name for name, count in found.items() if count == 0)


def _state(admin: AdminClient, config: Config, found: dict[str, int]) -> dict[str, TopicState]:
    """Ask for the ids, too. Where a broker has none, positions are told apart by its cluster id."""
    without_ids = {name: TopicState(None, partitions) for name, partitions in found.items()}
    if config.kafka.embedded:
        return without_ids
    try:
        told = describe(admin, list(found), _TIMEOUT)
    except KafkaException as error:
        raise Unreachable(f"asking for the ids of the topics: {error.args[0].str()}") from None
    state: dict[str, TopicState] = {}
    for name, answer in told.items():
        if not isinstance(answer, KafkaError):
            state[name] = answer
        elif answer.code() in NO_TOPIC_IDS:
            _log.info("the broker tells no topic ids (%s): positions are told apart by its cluster id", answer.str())
            return without_ids
        else:  # to take another name for it would cut every session off from its past
            raise Unreachable(f"asking for the id of {name}: {answer.str()}")
    return state


def describe(admin: AdminClient, names: list[str], timeout: float) -> dict[str, TopicState | KafkaError]:
    """Ask for ids and widths; by topic, what it is or why it can't be told. Blocks for `timeout` seconds at most.

    Raises KafkaException where no broker answers.
    """
    told: dict[str, TopicState | KafkaError] = {}
    for name, future in admin.describe_topics(TopicCollection(names), request_timeout=timeout).items():
        try:
            found = future.result()
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() in _NOBODY:
                raise
            told[name] = reason
        else:
            topic_id = str(found.topic_id)
            told[name] = TopicState(None if topic_id == _NO_ID else topic_id, len(found.partitions))
    return told


def widths(admin: AdminClient, names: list[str], timeout: float) -> dict[str, TopicState | KafkaError]:
    """Do what `describe` does, at a broker that has no topic ids."""
    told: dict[str, TopicState | KafkaError] = {}
    for name in names:
        topic = admin.list_topics(name, timeout=timeout).topics[name]
        told[name] = TopicState(None, len(topic.partitions)) if topic.error is None else topic.error
    return told
