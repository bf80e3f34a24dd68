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
from podpair.gateway.kafka.clients import check_files, properties

_log = logging.getLogger(__name__)
_TIMEOUT = 5.0  # seconds for each question to the broker; a SIGTERM waits for the one in hand
_NEWS = 2.0  # seconds in which a broker that has just started is to learn what topics there are
_CREATED = 10.0  # seconds in which the brokers are to learn of a topic that was created
_NO_TOPIC_IDS = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)  # a broker older than 2.8


class MissingTopic(Exception):
    """A topic that has to be there is not, and may not be created."""


class Unreachable(Exception):
    """No broker answers."""


class Topics(NamedTuple):
    """What the broker says about them."""

    request_partitions: int
    result_partitions: int
    epoch: str  # of the results topic: names this incarnation of it


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
    requests, results = found[config.requests.topic], found[config.results.topic]
    if requests != results:
        _log.warning(
            "topics %s and %s have %d and %d partitions: with equal numbers each gateway reads only its share of results",
            config.requests.topic, config.results.topic, requests, results,
        )  # fmt: skip
    return Topics(requests, results, _epoch(admin, config, results))


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


def _epoch(admin: AdminClient, config: Config, partitions: int) -> str:
    """Names this incarnation of the results topic: its id where the broker has one, and its width, which homes hang on."""
    identity = str(admin.list_topics(timeout=_TIMEOUT).cluster_id)
    if not config.kafka.embedded:
        future = admin.describe_topics(TopicCollection([config.results.topic]), request_timeout=_TIMEOUT)[
            config.results.topic
        ]
        try:
            identity = str(future.result().topic_id)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if (
                reason.code() not in _NO_TOPIC_IDS
            ):  # to take another name for it would cut every session off from its past
                raise Unreachable(f"asking for the id of {config.results.topic}: {reason.str()}") from None
            _log.info("the broker tells no topic ids (%s): positions are told apart by its cluster id", reason.str())
    return hashlib.sha256(f"{identity}/{config.results.topic}/{partitions}".encode()).hexdigest()[:6]
