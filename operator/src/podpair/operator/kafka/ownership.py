"""Reads from a broker whose topics are, and marks those that are a resource's: `core.ownership` decides."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import consumer_group, requests_topic
from podpair.operator.core.ownership import Claim, Mark, Origin, RecordedOwnership, Topic, claim, owner_of, read_mark
from podpair.operator.core.topics import FoundTopic
from podpair.operator.core.wanted_topics import wanted_topics
from podpair.operator.kafka.clients import Client
from podpair.operator.kafka.errors import BrokerError
from podpair.operator.kafka.ownership_marks import MarksDenied, OwnershipMarks


@dataclass
class TopicOwnership:
    """Whose the topics of a resource are, as far as it could be determined."""

    claims: dict[str, Claim]
    marks: dict[str, Mark]
    fault: str | None = None
    """Why the topics are not marked."""

    def own_mark(self, gateway: InferenceGateway, topic: str) -> Mark | None:
        """Return the mark of a topic, if it is this resource's."""
        mark = self.marks.get(topic)
        return mark if mark is not None and mark.owner.uid == owner_of(gateway).uid else None


async def resolve_ownership(
    client: Client,
    marks: OwnershipMarks,
    gateway: InferenceGateway,
    found: Mapping[str, FoundTopic],
    known: RecordedOwnership,
    *,
    adopt: bool,
) -> TopicOwnership:
    """Find out whose the topics are. `adopt`: take what is nobody's, if that can be seen. Raises BrokerError."""
    whose = TopicOwnership({}, {})
    try:
        texts = await marks.read(client, found)
    except MarksDenied as error:
        texts, whose.fault, adopt = {}, str(error), False
    wanted = {topic.name for topic in wanted_topics(gateway)}
    for name, topic in found.items():
        mark = read_mark(texts.get(name), topic.id)
        if mark is not None:
            whose.marks[name] = mark
        # Topics of an earlier spec are not adopted, and those that aren't this resource's are ignored.
        adopting = adopt and name in wanted
        one = claim(gateway, name, Topic(topic.id, topic.config), mark, known, adopt=adopting)
        if one.origin.owned or name in wanted:
            whose.claims[name] = one
    return whose


async def write_marks(
    marks: OwnershipMarks,
    gateway: InferenceGateway,
    found: Mapping[str, FoundTopic],
    whose: TopicOwnership,
    group: Origin | None,
) -> None:
    """Mark what is this resource's, anew once a day; and remove its marks from what it released."""
    if whose.fault is not None:
        return
    today = int(time.time() // 86_400)
    requests, own = requests_topic(gateway), owner_of(gateway)
    texts: dict[str, str | None] = {}
    for name, one in whose.claims.items():
        has = whose.own_mark(gateway, name)
        if one.origin.owned:
            with_group = consumer_group(gateway) if name == requests and group is Origin.CREATED else None
            mark = Mark(found[name].id, own, one.origin, with_group, today)
            if mark != has:
                texts[name] = mark.text()
        elif has is not None:
            texts[name] = None
    if texts:
        try:
            await marks.write(texts)
        except (MarksDenied, BrokerError) as error:  # the status records it, and the next reconciliation marks it
            whose.fault = str(error)
