"""The topics of a resource: what is wanted, beside what the broker has; made of both, what to do.

Nothing is ever taken away: a topic that is too wide stays so. The results topic grows only where the resource allows it, since
a session's home is a hash over its partitions. Of a topic's settings only those that the resource names are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from podpair.operator.core.kafka_state import Reason
from podpair.operator.core.objects.naming import dead_letters_topic, requests_topic, results_topic
from podpair.operator.core.objects.pods import fixed_replicas
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.core.resource.kinds import seconds

_AT_CREATION = {"cleanup.policy": "delete"}  # a broker's own default may be compact, which would lose results
_SIZE = "max.message.bytes"


class WantedTopic(NamedTuple):
    """A topic as the resource wants it. `replication` None: the broker's default."""

    name: str
    partitions: int
    replication: int | None
    config: Mapping[str, str]

    @property
    def config_at_creation(self) -> dict[str, str]:
        """The settings that it is made with."""
        return _AT_CREATION | dict(self.config)


class FoundTopic(NamedTuple):
    """A topic as the broker has it. `config` None: it wasn't asked for."""

    partitions: int
    replication: int
    config: Mapping[str, str] | None = None


class Fault(NamedTuple):
    """Why the topics can't be as wanted, and what would do."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class TopicsPlan:
    """What to do. Where there is a fault, what can be done besides is none the less in it."""

    create: tuple[WantedTopic, ...] = ()
    grow: Mapping[str, int] = field(default_factory=dict)
    """Topic → partitions that it is to have."""
    alter: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Topic → settings that differ, as they are to be."""
    fault: Fault | None = None
    notes: tuple[str, ...] = ()
    """What is not as wanted, but does no harm and isn't podpair's to change."""


def wanted_topics(gateway: InferenceGateway) -> list[WantedTopic]:
    """Requests, results, and dead letters where they are kept, in that order."""
    kafka = gateway.spec.kafka
    requests, results = kafka.requests, kafka.results
    wanted = [
        WantedTopic(
            requests_topic(gateway),
            requests.partitions,
            requests.replication,
            {**_retained(requests.retention), **requests.config},
        ),
        WantedTopic(
            results_topic(gateway),
            results.partitions,
            results.replication,
            {**_retained(results.retention), **results.config},
        ),
    ]
    if kafka.dead_letters.enabled:
        # What fits into the requests topic must fit here.
        size = {_SIZE: requests.config[_SIZE]} if _SIZE in requests.config else {}
        config = _retained(kafka.dead_letters.retention) | size
        wanted.append(WantedTopic(dead_letters_topic(gateway), 1, requests.replication, config))
    return wanted


def _retained(duration: str) -> dict[str, str]:
    return {"retention.ms": str(round(seconds(duration) * 1000))}


def plan_topics(gateway: InferenceGateway, found: Mapping[str, FoundTopic]) -> TopicsPlan:
    """What to do, given the topics of the resource that the broker has, by name."""
    wanted = wanted_topics(gateway)
    missing = tuple(topic for topic in wanted if topic.name not in found)
    narrow = {
        topic.name: topic.partitions
        for topic in wanted
        if topic.name in found and found[topic.name].partitions < topic.partitions
    }
    notes = tuple(_notes(gateway, wanted, found))
    if not gateway.spec.kafka.create_topics:
        return TopicsPlan(fault=_missing(gateway, missing) or _too_narrow(gateway, narrow, found), notes=notes)
    fault = None
    if results_topic(gateway) in narrow and not gateway.spec.kafka.allow_repartition:
        fault = _refused(gateway, found)
        # Both topics stay equally wide: what has grown can't be undone.
        narrow = {}
    return TopicsPlan(create=missing, grow=narrow, alter=_drift(wanted, found), fault=fault, notes=notes)


def _missing(gateway: InferenceGateway, missing: tuple[WantedTopic, ...]) -> Fault | None:
    if not missing:
        return None
    names = " and ".join(f"{topic.name} (partitions: {topic.partitions})" for topic in missing)
    message = (
        f"not found at {gateway.spec.kafka.bootstrap_servers}: topic {names}."
        " Create what is missing, or let podpair: kafka.createTopics: true"
    )
    return Fault(Reason.TOPIC_MISSING, message)


def _most_pods(gateway: InferenceGateway) -> tuple[str, int]:
    fixed = fixed_replicas(gateway)
    return ("scaling.max", gateway.spec.scaling.max) if fixed is None else ("replicas", fixed)


def _too_narrow(gateway: InferenceGateway, narrow: Mapping[str, int], found: Mapping[str, FoundTopic]) -> Fault | None:
    """Topics that aren't podpair's to widen are faulty only where there are fewer partitions than pods."""
    field_name, pods = _most_pods(gateway)
    for name in narrow:
        if found[name].partitions < pods:
            message = (
                f"topic {name} has {found[name].partitions} partitions, {field_name} is {pods}: widen the topic"
                f" (kafka.createTopics is false, so podpair doesn't), or lower {field_name}"
            )
            return Fault(Reason.TOPIC_TOO_NARROW, message)
    return None


def _refused(gateway: InferenceGateway, found: Mapping[str, FoundTopic]) -> Fault:
    name, wanted = results_topic(gateway), gateway.spec.kafka.results.partitions
    has = found[name].partitions
    field_name, pods = _most_pods(gateway)
    moving = "growing it moves sessions' homes, and clients that resume are told of a gap"
    if has < pods:
        message = (
            f"topic {name} has {has} partitions, {field_name} is {pods}:"
            f" raise it (kafka.results.partitions: {wanted}, allowRepartition: true; {moving}) or lower {field_name}"
        )
        return Fault(Reason.TOPIC_TOO_NARROW, message)
    message = (
        f"topic {name} has {has} partitions and stays so, kafka.results.partitions is {wanted}: {moving}."
        f" Set kafka.allowRepartition: true to have it, or kafka.results.partitions: {has} to leave it"
    )
    return Fault(Reason.REPARTITION_REFUSED, message)


def _notes(gateway: InferenceGateway, wanted: list[WantedTopic], found: Mapping[str, FoundTopic]) -> list[str]:
    notes = [
        f"topic {topic.name} has {found[topic.name].replication} copies, {topic.replication} are wanted:"
        " podpair moves no replicas (kafka-reassign-partitions does)"
        for topic in wanted
        if topic.name in found and topic.replication not in (None, found[topic.name].replication)
    ]
    requests, results = requests_topic(gateway), results_topic(gateway)
    if requests in found and results in found and found[requests].partitions != found[results].partitions:
        notes.append(
            f"{requests} has {found[requests].partitions} partitions and {results} {found[results].partitions}:"
            " with equal numbers each pod reads only its share of the results"
        )
    return notes


def _drift(wanted: list[WantedTopic], found: Mapping[str, FoundTopic]) -> dict[str, Mapping[str, str]]:
    drift: dict[str, Mapping[str, str]] = {}
    for topic in wanted:
        config = found[topic.name].config if topic.name in found else None
        if config is None:
            continue
        differing = {key: value for key, value in topic.config.items() if not _same(config.get(key), value)}
        if differing:
            drift[topic.name] = differing
    return drift


def _same(has: str | None, wanted: str) -> bool:
    """Whether a broker that tells `has` was given `wanted`: it writes numbers, booleans and lists in its own way."""
    return has is not None and _plain(has) == _plain(wanted)


def _plain(value: str) -> object:
    text = value.strip()
    try:
        return Decimal(text)
    except InvalidOperation:
        pass
    lowered = text.lower()
    return lowered if lowered in ("true", "false") else tuple(part.strip() for part in text.split(","))
