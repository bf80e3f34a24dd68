"""Finds out at a broker whose topics are, and marks those that are a resource's: `core.ownership` decides."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from podpair.operator.core.objects.naming import consumer_group, requests_topic
from podpair.operator.core.ownership import Claim, Mark, Origin, Remembered, Topic, claim, owner_of, read_mark
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.core.topics import FoundTopic, wanted_topics
from podpair.operator.kafka.clients import Client
from podpair.operator.kafka.failures import BrokerTrouble
from podpair.operator.kafka.marks import Marks, MarksRefused


@dataclass
class Whose:
    """Whose the topics of a resource are, as far as could be told."""

    claims: dict[str, Claim]
    marks: dict[str, Mark]
    fault: str | None = None
    """Why the topics are not marked."""

    def own_mark(self, gateway: InferenceGateway, topic: str) -> Mark | None:
        """The mark of a topic, where it is this resource's."""
        mark = self.marks.get(topic)
        return mark if mark is not None and mark.owner.uid == owner_of(gateway).uid else None


async def whose_are(
    client: Client,
    marks: Marks,
    gateway: InferenceGateway,
    found: Mapping[str, FoundTopic],
    known: Remembered,
    *,
    adopt: bool,
) -> Whose:
    """Whose the topics are that were found. `adopt`: what is nobody's is taken, if that can be seen. Raises BrokerTrouble."""
    whose = Whose({}, {})
    try:
        texts = await marks.read(client, found)
    except MarksRefused as error:
        texts, whose.fault, adopt = {}, str(error), False
    wanted = {topic.name for topic in wanted_topics(gateway)}
    for name, topic in found.items():
        mark = read_mark(texts.get(name), topic.id)
        if mark is not None:
            whose.marks[name] = mark
        # Of what an earlier spec named nothing is taken, and what isn't this resource's is none of its business.
        adopting = adopt and name in wanted
        one = claim(gateway, name, Topic(topic.id, topic.config), mark, known, adopt=adopting)
        if one.origin.owned or name in wanted:
            whose.claims[name] = one
    return whose


async def mark_owned(
    marks: Marks,
    gateway: InferenceGateway,
    found: Mapping[str, FoundTopic],
    whose: Whose,
    group: Origin | None,
) -> None:
    """Mark what is this resource's, anew once a day; and take its marks off what it lets go of."""
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
        except (MarksRefused, BrokerTrouble) as error:  # the status remembers, and the next look marks it
            whose.fault = str(error)
