"""Whose topics and consumer groups are: an operator alters and deletes only what its resource created, or adopted on request.

Two records say so, and the first that contradicts wins. A *mark* at the broker, which every other operator sees: the metadata of
an offset of the group `podpair.topic-owners`. And what the resource's status *records*, with the topic's id: a topic that was
recreated under the same name has another id. What neither claims is somebody else's: used, never written.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import consumer_group, dead_letters_topic, requests_topic, results_topic

MARKS_GROUP = "podpair.topic-owners"
"""The consumer group whose offsets carry the marks: it has no members."""
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # what brokers before 2.8 give for a topic's id


class Origin(StrEnum):
    """Where a topic or a group comes from. All but the last are this resource's to alter and delete."""

    CREATED = "Created"
    ADOPTED = "Adopted"
    EXISTING = "Existing"

    @property
    def owned(self) -> bool:
        """Whether this resource may alter and delete it."""
        return self is not Origin.EXISTING


class TopicRecord(NamedTuple):
    """What is recorded of a topic."""

    name: str
    id: str
    """Kafka's id of it; empty: its creation was asked for, and no answer came."""
    origin: Origin
    settings: tuple[str, ...] = ()
    """Names of the settings that the resource asked for, sorted: those that it names no longer are reset."""


class GroupRecord(NamedTuple):
    """What is recorded of a consumer group."""

    id: str
    origin: Origin


@dataclass(frozen=True)
class RecordedOwnership:
    """What a resource's status says of its topics and groups."""

    topics: tuple[TopicRecord, ...] = ()
    groups: tuple[GroupRecord, ...] = ()
    earlier: bool = False
    """The status is of a version that recorded nothing: 0.1.0."""

    def topic(self, name: str) -> TopicRecord | None:
        """Return what is recorded of a topic."""
        return next((one for one in self.topics if one.name == name), None)

    def group(self, group_id: str) -> GroupRecord | None:
        """Return what is recorded of a group."""
        return next((one for one in self.groups if one.id == group_id), None)

    def with_created(self, names: Iterable[str]) -> "RecordedOwnership":
        """Add topics whose creation was requested, with an unknown outcome."""
        asked = {name: TopicRecord(name, "", Origin.CREATED) for name in names}
        topics = (*(one for one in self.topics if one.name not in asked), *asked.values())
        return replace(self, topics=topics)

    def status(self) -> dict[str, Any]:
        """Return the fields of a resource's status."""
        topics = [
            {"name": one.name, "id": one.id, "origin": str(one.origin), "settings": list(one.settings)}
            for one in self.topics
        ]
        return {
            "topics": topics,
            "consumerGroups": [{"id": one.id, "origin": str(one.origin)} for one in self.groups],
        }


def recorded_ownership(status: Mapping[str, Any]) -> RecordedOwnership:
    """Read what the status of a resource, as the API server has it, records."""
    if "topics" not in status:
        ready = [one for one in status.get("conditions") or () if one.get("type") == "KafkaReady"]
        return RecordedOwnership(earlier=any(one.get("status") == "True" for one in ready))
    topics = tuple(
        TopicRecord(one["name"], one.get("id", ""), Origin(one["origin"]), tuple(one.get("settings") or ()))
        for one in status["topics"]
    )
    groups = tuple(GroupRecord(one["id"], Origin(one["origin"])) for one in status.get("consumerGroups") or ())
    return RecordedOwnership(topics, groups)


class Owner(NamedTuple):
    """A resource, in this cluster or another."""

    uid: str
    resource: str
    """NAMESPACE/NAME."""

    def __str__(self) -> str:
        return f"InferenceGateway {self.resource} (uid {self.uid})"


def owner_of(gateway: InferenceGateway) -> Owner:
    """Return this resource as an owner."""
    resource = f"{gateway.metadata.namespace}/{gateway.metadata.name}"
    return Owner(gateway.metadata.uid or resource, resource)


class Mark(NamedTuple):
    """Says at the broker whose a topic is."""

    topic_id: str
    owner: Owner
    origin: Origin
    group: str | None = None
    """The consumer group that was created along with it."""
    day: int = 0
    """Days since 1970 when it was written: a broker forgets it after offsets.retention.minutes, 7 days by default."""

    def text(self) -> str:
        """Return the text that is written to the broker."""
        fields = {"topic": self.topic_id, "owner": self.owner.uid, "resource": self.owner.resource}
        fields |= {"origin": str(self.origin)} | ({"group": self.group} if self.group is not None else {})
        return json.dumps({**fields, "day": self.day}, separators=(",", ":"))


def read_mark(text: str | None, topic_id: str) -> Mark | None:
    """Parse the mark of a topic; None: there is none, or it is that of an earlier topic of this name.

    A mark that can't be read, because another version wrote it, counts as somebody else's: so its topic is left alone.
    """
    if not text:
        return None
    try:
        fields = json.loads(text)
        mark = Mark(
            fields["topic"],
            Owner(fields["owner"], fields["resource"]),
            Origin(fields["origin"]),
            fields.get("group"),
            int(fields["day"]),
        )
    except (ValueError, KeyError, TypeError):
        return Mark(topic_id, Owner("not known", f"that wrote {text[:100]!r}"), Origin.CREATED)
    return mark if _same_id(mark.topic_id, topic_id) else None


@dataclass(frozen=True)
class DeletionResult:
    """What was deleted and what was left of a deleted resource's topics and groups."""

    topics: tuple[str, ...]
    """Deleted."""
    left: tuple[str, ...]
    """What isn't this resource's, with whose it is, for people."""


class Topic(NamedTuple):
    """What decides about a topic that the broker has: its id, the settings that it was given itself (None: not known)."""

    id: str
    config: Mapping[str, str] | None


class Claim(NamedTuple):
    """Whose a topic is. `other` None: this resource's, or nobody's that is known."""

    origin: Origin
    other: Owner | None = None
    recreated: bool = False
    """It was this resource's until somebody deleted it and made it again."""


def claim(
    gateway: InferenceGateway, name: str, topic: Topic, mark: Mark | None, known: RecordedOwnership, *, adopt: bool
) -> Claim:
    """Decide whose an existing topic is. `adopt`: take one that is nobody's."""
    record = known.topic(name)
    if mark is not None and mark.owner.uid != owner_of(gateway).uid:
        return Claim(Origin.EXISTING, mark.owner)
    origin = None
    if mark is not None:
        origin = mark.origin
    elif record is not None and record.origin.owned and (not record.id or _same_id(record.id, topic.id)):
        origin = record.origin
    elif known.earlier and _made_by_earlier(gateway, name, topic):
        origin = Origin.CREATED
    if origin is Origin.CREATED:
        return Claim(origin)
    if adopt or (origin is Origin.ADOPTED and gateway.spec.kafka.adopt_topics):
        return Claim(Origin.ADOPTED)
    return Claim(Origin.EXISTING, recreated=origin is None and record is not None and record.origin.owned)


def group_origin(
    gateway: InferenceGateway,
    known: RecordedOwnership,
    mark: Mark | None,
    *,
    exists: bool | None,
    requests: Origin | None,
) -> Origin | None:
    """Return the origin of this resource's consumer group; None: not known yet.

    `mark` is that of the requests topic if it is this resource's; `requests`: the origin of that topic, None: it doesn't exist.
    """
    group = consumer_group(gateway)
    record = known.group(group)
    if record is not None:
        return record.origin
    if exists is None:
        return None
    by_default = gateway.spec.kafka.consumer_group.id is None
    migrated = known.earlier and by_default and requests is not None and requests.owned
    if not exists or migrated or (mark is not None and mark.group == group):
        return Origin.CREATED
    return Origin.EXISTING


def _made_by_earlier(gateway: InferenceGateway, name: str, topic: Topic) -> bool:
    """Return whether 0.1.0, which left no mark, created the topic.

    Its name is then one that podpair generates, and it has the two settings that 0.1.0 gave every topic at its creation. One of
    them it never altered in topics that it found.
    """
    kafka = gateway.spec.kafka
    made_up = {requests_topic(gateway), dead_letters_topic(gateway)} if kafka.requests.name is None else set()
    made_up |= {results_topic(gateway)} if kafka.results.name is None else set()
    config = topic.config or {}
    return name in made_up and config.get("cleanup.policy") == "delete" and "retention.ms" in config


def _same_id(one: str, other: str) -> bool:
    """Brokers without ids can't tell that a topic was made again: only that its mark went with it."""
    return one == other or _NO_ID in (one, other)
