"""Keeps the topics of resources as they are wanted, and reads their groups' lag.

Every call ends within seconds, whatever the broker does, and tells what it found instead of raising; nothing is written where
nothing differs.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import KafkaError

from podpair.operator.core.broker_access import BrokerAccess, broker_access
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.kafka_state import KafkaSeen, Reason
from podpair.operator.core.objects.naming import consumer_group, requests_topic
from podpair.operator.core.ownership import (
    Forgotten,
    GroupRecord,
    Origin,
    Remembered,
    group_origin,
    owner_of,
    read_mark,
)
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.core.topics import (
    Fault,
    FoundTopic,
    TopicsPlan,
    plan_topics,
    same_setting,
    topic_records,
    wanted_topics,
)
from podpair.operator.kafka.clients import PATIENCE, Client, Kept
from podpair.operator.kafka.failures import BrokerTrouble, trouble
from podpair.operator.kafka.groups import group_exists, member_topics
from podpair.operator.kafka.lag import Group, LagUnknown, group_lag
from podpair.operator.kafka.marks import Marks, MarksRefused
from podpair.operator.kafka.ownership import Whose, mark_owned, whose_are
from podpair.operator.kafka.topic_admin import ABSENT, carry_out, do, find_topics, with_configs

_WHOLE = 15.0  # seconds for all questions of one resource
_SHOWING, _AGAIN = 3.0, 0.05  # seconds until a broker tells of a change, and between two looks
_NOTHING = Remembered()


class NotForgotten(Exception):
    """What is to be deleted is still there. The text says why, and what to do."""


@dataclass(frozen=True)
class _Broker:
    """One resource's ways to its broker."""

    client: Client
    group: Callable[[str], Group]
    """By its id."""
    marks: Marks
    making: dict[str, "asyncio.Future[_Made]"]
    """By the resource's uid, what must not be cut off: a topic that was created is marked, too."""

    async def uninterrupted(self, gateway: InferenceGateway, work: Coroutine[Any, Any, "_Made"]) -> "_Made":
        """Do it, to its end even where nobody waits for it any longer."""
        uid = owner_of(gateway).uid
        task = self.making[uid] = asyncio.ensure_future(work)

        def ended(_: object) -> None:
            if self.making.get(uid) is task:
                del self.making[uid]
            if not task.cancelled():
                task.exception()  # it is raised where it is awaited, if it still is

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def settled(self, gateway: InferenceGateway) -> None:
        """Until what was begun for a resource has ended."""
        if (task := self.making.get(owner_of(gateway).uid)) is not None:
            await asyncio.wait([task])


class Topics:
    """All brokers' topics, as resources want them. Used on one event loop."""

    def __init__(self) -> None:
        self._clients: Kept[BrokerAccess, Client] = Kept()
        self._groups: Kept[tuple[BrokerAccess, str], Group] = Kept()
        self._marks: Kept[BrokerAccess, Marks] = Kept()
        self._making: dict[str, asyncio.Future[_Made]] = {}

    async def keep(
        self, gateway: InferenceGateway, credentials: Credentials, known: Remembered = _NOTHING
    ) -> KafkaSeen:
        """Create, grow and set what is to be, of what is this resource's, and see how things stand. Raises nothing.

        `known`: what was remembered last.
        """
        creating: set[str] = set()
        try:
            async with self._at_work(gateway, credentials) as broker:
                return await _keep(broker, gateway, known, creating)
        except BrokerTrouble as error:
            seen = error.seen
        except TimeoutError:
            seen = trouble(_timed_out(), gateway.spec.kafka.bootstrap_servers).seen
        return replace(seen, remembered=known.with_created(creating)) if creating else seen

    async def forget(
        self, gateway: InferenceGateway, credentials: Credentials, known: Remembered = _NOTHING
    ) -> Forgotten:
        """Delete the group and the topics that are this resource's, for deletionPolicy Delete. Those that are gone are fine.

        Raises NotForgotten: try again later. While pods are still members the group can't go, and nothing is deleted.
        """
        try:
            async with self._at_work(gateway, credentials) as broker:
                return await _forget(broker, gateway, known)
        except BrokerTrouble as error:
            raise NotForgotten(error.seen.message) from None
        except TimeoutError:
            raise NotForgotten(trouble(_timed_out(), gateway.spec.kafka.bootstrap_servers).seen.message) from None

    async def release(self, gateway: InferenceGateway, credentials: Credentials, known: Remembered = _NOTHING) -> None:
        """Take this resource's marks off its topics, which stay. Raises nothing: a mark that stays is forgotten by the broker."""
        with contextlib.suppress(BrokerTrouble, MarksRefused, TimeoutError):
            async with self._at_work(gateway, credentials) as broker:
                found = await find_topics(broker.client, _names(gateway, known))
                whose = await whose_are(broker.client, broker.marks, gateway, found, known, adopt=False)
                own = [name for name in found if whose.own_mark(gateway, name) is not None]
                if own:
                    await broker.marks.write(dict.fromkeys(own))

    @contextlib.asynccontextmanager
    async def _at_work(self, gateway: InferenceGateway, credentials: Credentials) -> AsyncIterator[_Broker]:
        """The resource's ways to its broker, once nothing is under way for it. Raises TimeoutError after `_WHOLE` in all."""
        async with asyncio.timeout(_WHOLE):
            broker = self._broker(gateway, credentials)
            await broker.settled(gateway)
            yield broker

    def _broker(self, gateway: InferenceGateway, credentials: Credentials) -> _Broker:
        access = broker_access(gateway, credentials)
        return _Broker(
            self._clients.get(access, lambda: Client(access)),
            lambda group: self._groups.get((access, group), lambda: Group(access, group)),
            self._marks.get(access, lambda: Marks(access)),
            self._making,
        )

    async def close(self) -> None:
        """Let go of the brokers."""
        if self._making:
            await asyncio.wait(self._making.values(), timeout=_WHOLE)
        await self._groups.close()
        await self._marks.close()
        await self._clients.close()


def _timed_out() -> KafkaError:
    return KafkaError(KafkaError._TIMED_OUT, f"no answer in {_WHOLE:.0f} s")


async def _keep(broker: _Broker, gateway: InferenceGateway, known: Remembered, creating: set[str]) -> KafkaSeen:
    """`creating`: the topics whose creation was asked for and that are not in the answer."""
    made = await broker.uninterrupted(gateway, _make(broker, gateway, known, creating))
    found, whose, remembered = made.found, made.whose, made.remembered
    conflict, notes = None, [*made.seen.notes, *([whose.fault] if whose.fault is not None else [])]
    group, requests = consumer_group(gateway), requests_topic(gateway)
    lag = None
    try:
        if made.group is Origin.EXISTING:
            conflict, told = await _group_of_others(broker, gateway, found)
            notes += told
        if requests in made.widths:
            lag = await group_lag(broker.client, broker.group(group), requests, made.widths[requests])
    except LagUnknown as error:
        notes.append(f"lag isn't known: {error}")
    except BrokerTrouble as error:
        raise BrokerTrouble(replace(error.seen, remembered=remembered)) from None
    partitions, fault = made.widths.get(requests), made.seen.fault or conflict
    if fault is not None:
        return KafkaSeen(False, fault.reason, fault.message, lag, partitions, made.changes, remembered)
    widths = [f"{topic.name} ({made.widths[topic.name]})" for topic in wanted_topics(gateway)]
    message = ". ".join([f"topics (partitions): {', '.join(widths)} at {broker.client.servers}", *notes])
    return KafkaSeen(True, Reason.TOPICS_READY, message, lag, partitions, made.changes, remembered)


@dataclass(frozen=True)
class _Made:
    """What was done, and how things stand after it."""

    changes: tuple[str, ...]
    found: Mapping[str, FoundTopic]
    widths: Mapping[str, int]
    """Partitions by topic, of those whose creation the broker doesn't show yet, too."""
    whose: Whose
    group: Origin | None
    seen: TopicsPlan
    """What would be to do now; its fault and notes count."""
    remembered: Remembered


async def _make(broker: _Broker, gateway: InferenceGateway, known: Remembered, creating: set[str]) -> _Made:
    """Create, grow and set what is to be, and mark what is this resource's."""
    client, adopt = broker.client, gateway.spec.kafka.adopt_topics
    found = await _look(client, gateway, known)
    whose = await whose_are(broker.client, broker.marks, gateway, found, known, adopt=adopt)
    plan = seen = plan_topics(gateway, found, whose.claims, known)
    requests, group = requests_topic(gateway), consumer_group(gateway)
    # Before the topics are made: a group that is there then is not this resource's.
    there = await group_exists(client, group) if known.group(group) is None else None
    changes = await carry_out(client, plan, creating)
    if changes or plan.create:
        found = await _shown(client, gateway, plan, known, creating)
        made = known.with_created(creating)
        whose = await whose_are(broker.client, broker.marks, gateway, found, made, adopt=adopt)
        seen = plan_topics(gateway, found, whose.claims, made)  # another may have been quicker
    mark, claimed = whose.own_mark(gateway, requests), whose.claims.get(requests)
    origin = group_origin(gateway, known, mark, exists=there, requests=claimed.origin if claimed is not None else None)
    await mark_owned(broker.marks, gateway, found, whose, origin)
    groups = [one for one in known.groups if one.id != group]
    groups += [GroupRecord(group, origin)] if origin is not None else []
    records = topic_records(gateway, found, whose.claims, known)
    remembered = Remembered(records, tuple(groups)).with_created(creating - found.keys())
    creating.clear()
    widths = {topic.name: topic.partitions for topic in plan.create}
    widths |= {name: topic.partitions for name, topic in found.items()} | dict(plan.grow)
    return _Made(tuple(changes), found, widths, whose, origin, seen, remembered)


def _names(gateway: InferenceGateway, known: Remembered) -> list[str]:
    """The topics that the resource names, and those that it once did."""
    return list(dict.fromkeys([topic.name for topic in wanted_topics(gateway)] + [one.name for one in known.topics]))


async def _group_of_others(
    broker: _Broker, gateway: InferenceGateway, found: Mapping[str, FoundTopic]
) -> tuple[Fault | None, list[str]]:
    """Of a group that isn't this resource's: the fault that names another resource that it works for; else a note."""
    group = consumer_group(gateway)
    others = await find_topics(broker.client, sorted(await member_topics(broker.client, group) - found.keys()))
    if not others:
        return None, [
            f"consumer group {group} was there already: it is used as it is, and stays when this resource goes"
        ]
    with contextlib.suppress(MarksRefused):
        for name, text in (await broker.marks.read(broker.client, others)).items():
            mark = read_mark(text, others[name].id)
            if mark is not None and mark.owner.uid != owner_of(gateway).uid:
                message = (
                    f"consumer group {group} works on topic {name} for {mark.owner}: each would wait for the other's pods,"
                    " and it stays when this resource goes. Name another in spec.kafka.consumerGroup.id"
                )
                return Fault(Reason.GROUP_CONFLICT, message), []
    return None, [f"consumer group {group} works on {', '.join(others)}, too: it stays when this resource goes"]


async def _shown(
    client: Client, gateway: InferenceGateway, plan: TopicsPlan, known: Remembered, creating: set[str]
) -> dict[str, FoundTopic]:
    """The topics once the broker tells of what its controller has just done, or as they are after `_SHOWING`: asked too early
    it would be told to do it again."""
    end = time.monotonic() + _SHOWING
    while True:
        found = await _look(client, gateway, known)
        if _done(plan, found, creating) or time.monotonic() > end:
            return found
        await asyncio.sleep(_AGAIN)


def _done(plan: TopicsPlan, found: Mapping[str, FoundTopic], creating: set[str]) -> bool:
    return (
        creating <= found.keys()
        and all(name in found and found[name].partitions >= width for name, width in plan.grow.items())
        and all(
            name in found and same_setting((found[name].config or {}).get(key), value)
            for name, config in plan.alter.items()
            for key, value in config.items()
        )
        and all(
            key not in (found[name].config or {}) for name in plan.reset if name in found for key in plan.reset[name]
        )
    )


async def _look(client: Client, gateway: InferenceGateway, known: Remembered) -> dict[str, FoundTopic]:
    """The topics as the broker has them, with what podpair keeps of them."""
    found = await find_topics(client, _names(gateway, known))
    return await with_configs(client, found) if gateway.spec.kafka.create_topics else found


async def _forget(broker: _Broker, gateway: InferenceGateway, known: Remembered) -> Forgotten:
    client = broker.client
    found = await find_topics(client, _names(gateway, known))
    if known.earlier:
        found = await with_configs(client, found)
    whose = await whose_are(broker.client, broker.marks, gateway, found, known, adopt=False)
    requests = requests_topic(gateway)
    mark = whose.own_mark(gateway, requests)
    groups = {one.id for one in known.groups if one.origin.owned}
    origin = group_origin(
        gateway, known, mark, exists=True, requests=whose.claims[requests].origin if requests in whose.claims else None
    )
    groups |= {consumer_group(gateway)} if origin is Origin.CREATED else set()
    left = [
        f"topic {name} ({f'it is that of {one.other}' if one.other is not None else 'this resource did not create it'})"
        for name, one in sorted(whose.claims.items())
        if not one.origin.owned
    ]
    for group in sorted(groups):
        left += await _forget_group(broker, group, found.keys())
    names = sorted(name for name, one in whose.claims.items() if one.origin.owned)
    if names:
        futures = client.admin.delete_topics(names, operation_timeout=PATIENCE / 2, request_timeout=PATIENCE)
        await do(client, futures, {name: f"deleting topic {name}" for name in names}, fine=ABSENT)
    return Forgotten(tuple(names), tuple(left))


async def _forget_group(broker: _Broker, group: str, topics: Iterable[str]) -> list[str]:
    """Delete a group, unless it works for others, too: then it is told, and its offsets of our topics go with them."""
    client = broker.client
    try:
        others = sorted(await broker.group(group).topics() - set(topics))
    except LagUnknown as error:
        raise NotForgotten(str(error)) from None
    if others:
        return [f"consumer group {group} (it has offsets of topic {', '.join(others)})"]
    gone = client.admin.delete_consumer_groups([group], request_timeout=PATIENCE)
    answer = (await client.ask(gone, f"deleting group {group}"))[group]
    if isinstance(answer, KafkaError) and answer.code() == KafkaError.NON_EMPTY_GROUP:
        raise NotForgotten(f"consumer group {group} still has members: it goes once the pods have stopped")
    if isinstance(answer, KafkaError) and answer.code() not in ABSENT:
        raise trouble(answer, client.servers, f"deleting group {group}")
    return []
