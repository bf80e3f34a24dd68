"""Plans the topics of a resource, from what is wanted and what the broker has.

Partitions are never removed: a topic with too many keeps them. The results topic grows only if the resource allows it, since
a session's home is a hash over its partitions; the topic of workflows grows with the requests topic; those of deliveries keep
the width that they have, since what waits in them is ordered by key, or by how long it waits. Of a topic's settings only those
that the resource names are managed, and those that it no longer names are reset. A topic that isn't this resource's
(`ownership`) is used as it is, or not at all.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import NamedTuple

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import (
    deliveries_topic,
    presence_topic,
    requests_topic,
    results_topic,
    workflows_topic,
)
from podpair.operator.core.builders.pods import fixed_replicas
from podpair.operator.core.kafka_state import Reason
from podpair.operator.core.ownership import MARKS_GROUP, Claim, RecordedOwnership, TopicRecord
from podpair.operator.core.wanted_topics import CLEANUP, WantedTopic, topics_of_deliveries, wanted_topics


class FoundTopic(NamedTuple):
    """A topic as the broker has it. `config` None: it wasn't asked for."""

    partitions: int
    replication: int
    config: Mapping[str, str] | None = None
    """The settings that it was given itself."""
    id: str = ""
    """Kafka's."""
    effective: Mapping[str, str] = MappingProxyType({})
    """All its settings, the broker's defaults among them."""


class Fault(NamedTuple):
    """Why the topics can't be as wanted, and what to do."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class TopicsPlan:
    """What to do. With a fault, it still has what can be done besides."""

    create: tuple[WantedTopic, ...] = ()
    grow: Mapping[str, int] = field(default_factory=dict)
    """Topic → partitions that it is to have."""
    alter: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Topic → settings that differ, as they are to be."""
    reset: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Topic → settings that the resource asked for once, and asks for no longer."""
    fault: Fault | None = None
    notes: tuple[str, ...] = ()
    """What is not as wanted, but does no harm and isn't podpair's to change."""


def _wanted_beside(gateway: InferenceGateway, found: Mapping[str, FoundTopic]) -> list[WantedTopic]:
    """Return the wanted topics: that of workflows as wide as the requests topic is, which may be wider than was asked for."""
    state, requests = workflows_topic(gateway), found.get(requests_topic(gateway))
    width = requests.partitions if requests is not None else 0
    return [
        topic._replace(partitions=max(topic.partitions, width)) if topic.name == state else topic
        for topic in wanted_topics(gateway)
    ]


def plan_topics(
    gateway: InferenceGateway, found: Mapping[str, FoundTopic], claims: Mapping[str, Claim], known: RecordedOwnership
) -> TopicsPlan:
    """Return what to do, given the topics of the resource that the broker has, by name, and whose each of them is."""
    wanted = _wanted_beside(gateway, found)
    owned = {name for name, one in claims.items() if one.origin.owned}
    missing = tuple(topic for topic in wanted if topic.name not in found)
    fixed = {topic.name for topic in topics_of_deliveries(gateway)}
    narrow = {
        topic.name: topic.partitions
        for topic in wanted
        if topic.name in found and found[topic.name].partitions < topic.partitions and topic.name not in fixed
    }
    notes = (*_notes(gateway, wanted, found), *_ownership_notes(gateway, wanted, found, claims))
    if not gateway.spec.kafka.create_topics:
        why = "kafka.createTopics is false"
        return TopicsPlan(
            fault=(
                _missing(gateway, missing)
                or _too_narrow(gateway, narrow, found, why)
                or _wrong_policy(gateway, wanted, found, owned)
            ),
            notes=notes,
        )
    ours = {name: partitions for name, partitions in narrow.items() if name in owned}
    theirs = {name: partitions for name, partitions in narrow.items() if name not in owned}
    conflict = _conflict(wanted, claims)
    fault = conflict or _wrong_policy(gateway, wanted, found, owned)
    if results_topic(gateway) in ours and not gateway.spec.kafka.allow_repartition:
        fault = fault or _refused(gateway, found)
        # Both topics stay equally wide: what has grown can't be undone. That of workflows may be wider than they are.
        ours = {name: width for name, width in ours.items() if name == workflows_topic(gateway)}
    fault = fault or _too_narrow(gateway, theirs, found, "this resource did not make it")
    kept = {name: topic for name, topic in found.items() if name in owned}
    return TopicsPlan(
        create=missing if conflict is None else (),  # two that share some names would each own a part
        grow=ours,
        alter=_drift(wanted, kept),
        reset=_no_longer_wanted(wanted, kept, known),
        fault=fault,
        notes=notes,
    )


def topic_records(
    gateway: InferenceGateway, found: Mapping[str, FoundTopic], claims: Mapping[str, Claim], known: RecordedOwnership
) -> tuple[TopicRecord, ...]:
    """Return what to record of the topics once the plan is carried out, sorted by name."""
    settings = {topic.name: tuple(sorted(topic.config)) for topic in wanted_topics(gateway)}
    records = []
    for name, one in sorted(claims.items()):
        last = known.topic(name)
        kept = settings.get(name, last.settings if last is not None else ())
        if not gateway.spec.kafka.create_topics and last is not None:
            kept = last.settings
        records.append(TopicRecord(name, found[name].id, one.origin, kept if one.origin.owned else ()))
    # A broker that has just started may not know of all: one that is gone for good would come again with another id.
    records += [one for one in known.topics if one.name in settings.keys() - found.keys() and one.origin.owned]
    return tuple(sorted(records))


def _conflict(wanted: list[WantedTopic], claims: Mapping[str, Claim]) -> Fault | None:
    taken = [(topic.name, claims[topic.name].other) for topic in wanted if topic.name in claims]
    conflicts = [f"topic {name} is that of {other}" for name, other in taken if other is not None]
    if not conflicts:
        return None
    message = (
        f"{'; '.join(conflicts)}: it is not altered, and stays when this resource goes. Name another in spec.kafka, or delete"
        f" that resource first; if it is gone for good: kafka-consumer-groups.sh --delete-offsets --group {MARKS_GROUP} --topic"
        f" {next(name for name, other in taken if other is not None)}"
    )
    return Fault(Reason.TOPIC_CONFLICT, message)


def _wrong_policy(
    gateway: InferenceGateway, wanted: list[WantedTopic], found: Mapping[str, FoundTopic], owned: Set[str]
) -> Fault | None:
    """Return the fault of topics whose cleanup.policy would lose records."""
    states = _compacted_topics(gateway)
    for topic in wanted:
        policy = found[topic.name].effective.get(CLEANUP, "delete") if topic.name in found else "delete"
        if (
            topic.name not in states
            and "compact" in policy
            and not same_setting(policy, topic.config.get(CLEANUP, "delete"))
        ):
            message = (
                f"topic {topic.name} is compacted (cleanup.policy={policy}): of records with one key all but the last would be"
                " lost. Name another in spec.kafka; podpair doesn't alter this setting unless the topic's config names it"
            )
            return Fault(Reason.TOPIC_COMPACTED, message)
        if topic.name in states and topic.name in found and topic.name not in owned:
            policy = found[topic.name].effective.get(
                CLEANUP, "compact"
            )  # of topics that aren't podpair's to make it isn't asked
            if not same_setting(policy, "compact"):
                message = (
                    f"topic {topic.name} isn't compacted (cleanup.policy={policy}): {states[topic.name]} would be lost with time."
                    " Set cleanup.policy=compact, or have podpair do so: kafka.adoptTopics: true"
                )
                return Fault(Reason.TOPIC_NOT_COMPACTED, message)
    return None


def _compacted_topics(gateway: InferenceGateway) -> dict[str, str]:
    """Return the topics that have to be compacted, and what each of them holds."""
    return {
        workflows_topic(gateway): "the state of workflows",
        presence_topic(gateway): "who is connected",
        f"{deliveries_topic(gateway)}.subscriptions": "subscriptions to deliveries",
    }


def _ownership_notes(
    gateway: InferenceGateway,
    wanted: list[WantedTopic],
    found: Mapping[str, FoundTopic],
    claims: Mapping[str, Claim],
) -> list[str]:
    """Return notes on topics that aren't this resource's and how they differ, and on topics that it no longer names."""
    notes, existing = [], []
    by_name = {topic.name: topic for topic in wanted}
    for name, one in sorted(claims.items()):
        topic = by_name.get(name)
        if topic is None:
            goes = gateway.spec.kafka.deletion_policy == "Delete"
            end = "goes with this resource (deletionPolicy: Delete)" if goes else "is yours to delete"
            notes.append(f"topic {name} was made for this resource, which no longer names it: it stays, and {end}")
        elif one.other is not None and not gateway.spec.kafka.create_topics:
            notes.append(f"topic {name} is that of {one.other}, which alters it, and may delete it")
        elif one.other is None and not one.origin.owned and gateway.spec.kafka.create_topics:
            differences = ["made again by somebody else"] if one.recreated else []
            differences += _differences(topic, found[name])
            existing.append(f"{name} ({'; '.join(differences)})" if differences else name)
    if existing:
        notes.append(
            f"not made by this resource: {', '.join(existing)}: used as it is, and not deleted with this resource;"
            " kafka.adoptTopics: true makes it this resource's, to alter and delete"
        )
    return notes


def _differences(topic: WantedTopic, found: FoundTopic) -> list[str]:
    differences = []
    if found.partitions != topic.partitions:
        differences.append(f"{found.partitions} partitions, wanted {topic.partitions}")
    for key, value in sorted(topic.config.items()):
        if key in found.effective and not same_setting(found.effective[key], value):
            differences.append(f"{key}={found.effective[key]}, wanted {value}")
    return differences


def _no_longer_wanted(
    wanted: list[WantedTopic], kept: Mapping[str, FoundTopic], known: RecordedOwnership
) -> dict[str, tuple[str, ...]]:
    reset = {}
    for topic in wanted:
        record = known.topic(topic.name)
        config = kept[topic.name].config if topic.name in kept else None
        if record is None or config is None or record.id != kept[topic.name].id:
            continue
        names = tuple(key for key in record.settings if key not in topic.config and key in config)
        if names:
            reset[topic.name] = names
    return reset


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


def _too_narrow(
    gateway: InferenceGateway, narrow: Mapping[str, int], found: Mapping[str, FoundTopic], why: str
) -> Fault | None:
    """Return the fault of topics that aren't podpair's to widen: only too few partitions for the pods is one, or, of the topic
    of workflows, fewer than the requests topic has."""
    field_name, pods = _most_pods(gateway)
    state, requests = workflows_topic(gateway), requests_topic(gateway)
    for name in narrow:
        if name == state:
            if requests in found and found[name].partitions < found[requests].partitions:
                message = (
                    f"topic {name} has {found[name].partitions} partitions, {requests} has {found[requests].partitions}: widen"
                    f" the topic of workflows to as many ({why}, so podpair doesn't)"
                )
                return Fault(Reason.TOPIC_TOO_NARROW, message)
            continue
        if found[name].partitions < pods:
            message = (
                f"topic {name} has {found[name].partitions} partitions, {field_name} is {pods}: widen the topic"
                f" ({why}, so podpair doesn't), or lower {field_name}"
            )
            return Fault(Reason.TOPIC_TOO_NARROW, message)
    return None


def _refused(gateway: InferenceGateway, found: Mapping[str, FoundTopic]) -> Fault:
    name, wanted = results_topic(gateway), gateway.spec.kafka.results.partitions
    has = found[name].partitions
    field_name, pods = _most_pods(gateway)
    moving = "growing it moves sessions' homes, and clients that resume get a gap"
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
        differing = {key: value for key, value in topic.config.items() if not same_setting(config.get(key), value)}
        if differing:
            drift[topic.name] = differing
    return drift


def same_setting(has: str | None, wanted: str) -> bool:
    """Return whether a broker that reports `has` was given `wanted`: it formats numbers, booleans and lists in its own way."""
    return has is not None and _plain(has) == _plain(wanted)


def _plain(value: str) -> object:
    text = value.strip()
    try:
        return Decimal(text)
    except InvalidOperation:
        pass
    lowered = text.lower()
    return lowered if lowered in ("true", "false") else tuple(part.strip() for part in text.split(","))
