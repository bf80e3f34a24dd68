"""Reconciles the topics of resources with their brokers, and reads their groups' lag.

Every call ends within seconds, whatever the broker does, and returns what it found instead of raising; nothing is written if
nothing differs.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import KafkaError

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.broker_access import BrokerAccess, broker_access
from podpair.operator.core.builders.naming import consumer_group, requests_topic
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.ownership import (
    DeletionResult,
    GroupRecord,
    Origin,
    RecordedOwnership,
    group_origin,
    owner_of,
    read_mark,
)
from podpair.operator.core.topics import (
    Fault,
    FoundTopic,
    TopicsPlan,
    plan_topics,
    same_setting,
    topic_records,
)
from podpair.operator.core.wanted_topics import wanted_topics
from podpair.operator.kafka.clients import REQUEST_TIMEOUT, Client, ClientCache
from podpair.operator.kafka.errors import BrokerError, broker_error
from podpair.operator.kafka.groups import group_exists, member_topics
from podpair.operator.kafka.lag import Group, LagUnknown, group_lag
from podpair.operator.kafka.ownership import TopicOwnership, resolve_ownership, write_marks
from podpair.operator.kafka.ownership_marks import MarksDenied, OwnershipMarks
from podpair.operator.kafka.topic_admin import ABSENT, await_results, execute_plan, find_topics, with_configs

_TIMEOUT = 15.0  # seconds for all requests of one resource
_VISIBLE_TIMEOUT, _POLL_INTERVAL = 3.0, 0.05  # seconds until a broker shows a change, and between two polls
_NOTHING = RecordedOwnership()


class DeletionIncomplete(Exception):
    """Topics or groups could not be deleted. The text says why, and what to do."""


@dataclass(frozen=True)
class _Broker:
    """One resource's clients of its broker."""

    client: Client
    group: Callable[[str], Group]
    """By its id."""
    marks: OwnershipMarks
    making: dict[str, "asyncio.Future[_Applied]"]
    """By the resource's uid, what must not be cut off: a topic that was created is marked, too."""

    async def run_shielded(self, gateway: InferenceGateway, work: Coroutine[Any, Any, "_Applied"]) -> "_Applied":
        """Run it to its end, even if nobody waits for it any longer."""
        uid = owner_of(gateway).uid
        task = self.making[uid] = asyncio.ensure_future(work)

        def ended(_: object) -> None:
            if self.making.get(uid) is task:
                del self.making[uid]
            if not task.cancelled():
                task.exception()  # the awaiter raises it, if there still is one

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def wait_idle(self, gateway: InferenceGateway) -> None:
        """Wait until what was begun for a resource has ended."""
        if (task := self.making.get(owner_of(gateway).uid)) is not None:
            await asyncio.wait([task])


class Topics:
    """The topics of all brokers. Used on one event loop."""

    def __init__(self) -> None:
        self._clients: ClientCache[BrokerAccess, Client] = ClientCache()
        self._groups: ClientCache[tuple[BrokerAccess, str], Group] = ClientCache()
        self._marks: ClientCache[BrokerAccess, OwnershipMarks] = ClientCache()
        self._making: dict[str, asyncio.Future[_Applied]] = {}

    async def reconcile(
        self, gateway: InferenceGateway, credentials: Credentials, known: RecordedOwnership = _NOTHING
    ) -> KafkaState:
        """Create, grow and alter the resource's own topics, and return their state. Raises nothing.

        `known`: what was recorded last.
        """
        creating: set[str] = set()
        try:
            async with self._exclusive(gateway, credentials) as broker:
                return await _reconcile(broker, gateway, known, creating)
        except BrokerError as error:
            seen = error.state
        except TimeoutError:
            seen = broker_error(_timed_out(), gateway.spec.kafka.bootstrap_servers).state
        return replace(seen, ownership=known.with_created(creating)) if creating else seen

    async def delete(
        self, gateway: InferenceGateway, credentials: Credentials, known: RecordedOwnership = _NOTHING
    ) -> DeletionResult:
        """Delete the group and the topics that are this resource's, for deletionPolicy Delete. Missing ones are fine.

        Raises DeletionIncomplete: try again later. While pods are still members the group can't go, and nothing is deleted.
        """
        try:
            async with self._exclusive(gateway, credentials) as broker:
                return await _delete(broker, gateway, known)
        except BrokerError as error:
            raise DeletionIncomplete(error.state.message) from None
        except TimeoutError:
            raise DeletionIncomplete(
                broker_error(_timed_out(), gateway.spec.kafka.bootstrap_servers).state.message
            ) from None

    async def release(
        self, gateway: InferenceGateway, credentials: Credentials, known: RecordedOwnership = _NOTHING
    ) -> None:
        """Remove this resource's marks from its topics, which stay. Raises nothing: the broker forgets a remaining mark."""
        with contextlib.suppress(BrokerError, MarksDenied, TimeoutError):
            async with self._exclusive(gateway, credentials) as broker:
                found = await find_topics(broker.client, _names(gateway, known))
                whose = await resolve_ownership(broker.client, broker.marks, gateway, found, known, adopt=False)
                own = [name for name in found if whose.own_mark(gateway, name) is not None]
                if own:
                    await broker.marks.write(dict.fromkeys(own))

    @contextlib.asynccontextmanager
    async def _exclusive(self, gateway: InferenceGateway, credentials: Credentials) -> AsyncIterator[_Broker]:
        """Yield the resource's clients once nothing is under way for it. Raises TimeoutError after `_TIMEOUT` in all."""
        async with asyncio.timeout(_TIMEOUT):
            broker = self._broker(gateway, credentials)
            await broker.wait_idle(gateway)
            yield broker

    def _broker(self, gateway: InferenceGateway, credentials: Credentials) -> _Broker:
        access = broker_access(gateway, credentials)
        return _Broker(
            self._clients.get(access, lambda: Client(access)),
            lambda group: self._groups.get((access, group), lambda: Group(access, group)),
            self._marks.get(access, lambda: OwnershipMarks(access)),
            self._making,
        )

    async def close(self) -> None:
        """Close all clients."""
        if self._making:
            await asyncio.wait(self._making.values(), timeout=_TIMEOUT)
        await self._groups.close()
        await self._marks.close()
        await self._clients.close()


def _timed_out() -> KafkaError:
    return KafkaError(KafkaError._TIMED_OUT, f"no answer in {_TIMEOUT:.0f} s")


async def _reconcile(
    broker: _Broker, gateway: InferenceGateway, known: RecordedOwnership, creating: set[str]
) -> KafkaState:
    """Apply the plan and read the lag. `creating`: topics whose creation was requested and that are not in the result."""
    made = await broker.run_shielded(gateway, _apply_plan(broker, gateway, known, creating))
    found, whose, ownership = made.found, made.whose, made.ownership
    conflict, notes = None, [*made.seen.notes, *([whose.fault] if whose.fault is not None else [])]
    group, requests = consumer_group(gateway), requests_topic(gateway)
    lag = None
    try:
        if made.group is Origin.EXISTING:
            conflict, group_notes = await _group_of_others(broker, gateway, found)
            notes += group_notes
        if requests in made.widths:
            lag = await group_lag(broker.client, broker.group(group), requests, made.widths[requests])
    except LagUnknown as error:
        notes.append(f"lag isn't known: {error}")
    except BrokerError as error:
        raise BrokerError(replace(error.state, ownership=ownership)) from None
    partitions, fault = made.widths.get(requests), made.seen.fault or conflict
    if fault is not None:
        return KafkaState(False, fault.reason, fault.message, lag, partitions, made.changes, ownership)
    widths = [f"{topic.name} ({made.widths[topic.name]})" for topic in wanted_topics(gateway)]
    message = ". ".join([f"topics (partitions): {', '.join(widths)} at {broker.client.servers}", *notes])
    return KafkaState(True, Reason.TOPICS_READY, message, lag, partitions, made.changes, ownership)


@dataclass(frozen=True)
class _Applied:
    """What was done, and the state after it."""

    changes: tuple[str, ...]
    found: Mapping[str, FoundTopic]
    widths: Mapping[str, int]
    """Partitions by topic, including topics whose creation the broker doesn't show yet."""
    whose: TopicOwnership
    group: Origin | None
    seen: TopicsPlan
    """The plan after that; its fault and notes count."""
    ownership: RecordedOwnership


async def _apply_plan(
    broker: _Broker, gateway: InferenceGateway, known: RecordedOwnership, creating: set[str]
) -> _Applied:
    """Create, grow and alter topics, and mark what is this resource's."""
    client, adopt = broker.client, gateway.spec.kafka.adopt_topics
    found = await _find(client, gateway, known)
    whose = await resolve_ownership(broker.client, broker.marks, gateway, found, known, adopt=adopt)
    plan = seen = plan_topics(gateway, found, whose.claims, known)
    requests, group = requests_topic(gateway), consumer_group(gateway)
    # Before the topics are made: a group that is there then is not this resource's.
    there = await group_exists(client, group) if known.group(group) is None else None
    changes = await execute_plan(client, plan, creating)
    if changes or plan.create:
        found = await _await_visible(client, gateway, plan, known, creating)
        made = known.with_created(creating)
        whose = await resolve_ownership(broker.client, broker.marks, gateway, found, made, adopt=adopt)
        seen = plan_topics(gateway, found, whose.claims, made)  # another may have been quicker
    mark, claimed = whose.own_mark(gateway, requests), whose.claims.get(requests)
    origin = group_origin(gateway, known, mark, exists=there, requests=claimed.origin if claimed is not None else None)
    await write_marks(broker.marks, gateway, found, whose, origin)
    groups = [one for one in known.groups if one.id != group]
    groups += [GroupRecord(group, origin)] if origin is not None else []
    records = topic_records(gateway, found, whose.claims, known)
    ownership = RecordedOwnership(records, tuple(groups)).with_created(creating - found.keys())
    creating.clear()
    widths = {topic.name: topic.partitions for topic in plan.create}
    widths |= {name: topic.partitions for name, topic in found.items()} | dict(plan.grow)
    return _Applied(tuple(changes), found, widths, whose, origin, seen, ownership)


def _names(gateway: InferenceGateway, known: RecordedOwnership) -> list[str]:
    """Return the topics that the resource names, and those that it once did."""
    return list(dict.fromkeys([topic.name for topic in wanted_topics(gateway)] + [one.name for one in known.topics]))


async def _group_of_others(
    broker: _Broker, gateway: InferenceGateway, found: Mapping[str, FoundTopic]
) -> tuple[Fault | None, list[str]]:
    """Return the fault that names the other resource that the group works for; else a note."""
    group = consumer_group(gateway)
    others = await find_topics(broker.client, sorted(await member_topics(broker.client, group) - found.keys()))
    if not others:
        return None, [
            f"consumer group {group} was there already: it is used as it is, and stays when this resource goes"
        ]
    with contextlib.suppress(MarksDenied):
        for name, text in (await broker.marks.read(broker.client, others)).items():
            mark = read_mark(text, others[name].id)
            if mark is not None and mark.owner.uid != owner_of(gateway).uid:
                message = (
                    f"consumer group {group} works on topic {name} for {mark.owner}: each would wait for the other's pods,"
                    " and it stays when this resource goes. Name another in spec.kafka.consumerGroup.id"
                )
                return Fault(Reason.GROUP_CONFLICT, message), []
    return None, [f"consumer group {group} works on {', '.join(others)}, too: it stays when this resource goes"]


async def _await_visible(
    client: Client, gateway: InferenceGateway, plan: TopicsPlan, known: RecordedOwnership, creating: set[str]
) -> dict[str, FoundTopic]:
    """Return the topics once the broker shows what its controller has done, or as they are after `_VISIBLE_TIMEOUT`: read
    earlier, they would lead to the same plan again."""
    end = time.monotonic() + _VISIBLE_TIMEOUT
    while True:
        found = await _find(client, gateway, known)
        if _is_visible(plan, found, creating) or time.monotonic() > end:
            return found
        await asyncio.sleep(_POLL_INTERVAL)


def _is_visible(plan: TopicsPlan, found: Mapping[str, FoundTopic], creating: set[str]) -> bool:
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


async def _find(client: Client, gateway: InferenceGateway, known: RecordedOwnership) -> dict[str, FoundTopic]:
    """Return the topics as the broker has them, with the settings that podpair manages."""
    found = await find_topics(client, _names(gateway, known))
    return await with_configs(client, found) if gateway.spec.kafka.create_topics else found


async def _delete(broker: _Broker, gateway: InferenceGateway, known: RecordedOwnership) -> DeletionResult:
    client = broker.client
    found = await find_topics(client, _names(gateway, known))
    if known.earlier:
        found = await with_configs(client, found)
    whose = await resolve_ownership(broker.client, broker.marks, gateway, found, known, adopt=False)
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
        left += await _delete_group(broker, group, found.keys())
    names = sorted(name for name, one in whose.claims.items() if one.origin.owned)
    if names:
        futures = client.admin.delete_topics(
            names, operation_timeout=REQUEST_TIMEOUT / 2, request_timeout=REQUEST_TIMEOUT
        )
        await await_results(client, futures, {name: f"deleting topic {name}" for name in names}, fine=ABSENT)
    return DeletionResult(tuple(names), tuple(left))


async def _delete_group(broker: _Broker, group: str, topics: Iterable[str]) -> list[str]:
    """Delete a group, unless it works for others, too: then it is reported, and its offsets of our topics go with them."""
    client = broker.client
    try:
        others = sorted(await broker.group(group).topics() - set(topics))
    except LagUnknown as error:
        raise DeletionIncomplete(str(error)) from None
    if others:
        return [f"consumer group {group} (it has offsets of topic {', '.join(others)})"]
    gone = client.admin.delete_consumer_groups([group], request_timeout=REQUEST_TIMEOUT)
    answer = (await client.ask(gone, f"deleting group {group}"))[group]
    if isinstance(answer, KafkaError) and answer.code() == KafkaError.NON_EMPTY_GROUP:
        raise DeletionIncomplete(f"consumer group {group} still has members: it goes once the pods have stopped")
    if isinstance(answer, KafkaError) and answer.code() not in ABSENT:
        raise broker_error(answer, client.servers, f"deleting group {group}")
    return []
