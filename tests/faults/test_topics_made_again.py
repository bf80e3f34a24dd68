"""Topics are made again after a broker was restarted, as after an incident: leaders' epochs begin at 0 again, below what clients
of the broker have seen, and librdkafka takes no news of such a partition.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer

import podpair.client
from harness.kafka import Broker
from harness.pair import RESUME_SECRET, SECRET, Gateway, token
from harness.topics import TopicAdmin
from harness.waiting import until
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import Commit, Committed
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.record_batch import PartitionRecords
from podpair.gateway.kafka import stall_watch
from podpair.gateway.kafka.group_progress import GroupProgress
from podpair.gateway.kafka.member import GroupMember
from podpair.gateway.kafka.requests import Gate
from podpair.gateway.kafka.results import ResultsHooks, ResultsReader
from podpair.gateway.kafka.supervisor import Supervisor
from podpair.gateway.metrics import Metrics

_ROW = [0.0] * 64
_CLIENTS = 8


class Pushes:
    """What somebody else writes for each client, and what came."""

    def __init__(self, broker: str, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self.sessions: dict[str, podpair.client.Session] = {}
        self.came: set[tuple[str, Any]] = set()

    def on_event(self, name: str, event: dict[str, Any]) -> None:
        if event["type"] == "push":
            self.came.add((name, event["data"]))

    async def to_all(self, number: int, count: int = 5) -> None:
        """Return when all that is written has come; each client gets `count` of that number."""
        failed: list[str] = []

        def written(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(str(error))

        producer = Producer({"bootstrap.servers": self._broker, "partitioner": "murmur2_random", "log_level": 0})
        wanted = {(name, f"{number}.{n}") for name in self.sessions for n in range(count)}
        for name, text in sorted(wanted):
            producer.produce(self._topic, key=self.sessions[name].session, value=f'"{text}"', on_delivery=written)
        assert await asyncio.to_thread(producer.flush, 60) == 0
        assert not failed, failed
        await asyncio.to_thread(until, lambda: wanted <= self.came, lambda: sorted(wanted - self.came), 90)


@pytest.mark.parametrize("how", ["classic", "consumer", "exactly once"])
async def test_topics_that_are_made_again_after_a_restart_of_the_broker_are_read(
    start_pair: Callable[..., Gateway], own_broker: Broker, names: dict[str, Any], how: str
) -> None:
    requests = {"exactly_once": True} if how == "exactly once" else {"group_protocol": how}
    gateway = start_pair(
        kafka={"bootstrap_servers": own_broker.address, "probe_seconds": 0.2}, requests=names["requests"] | requests
    )
    topics, topic = TopicAdmin(own_broker.address), names["results"]["topic"]
    pushes = Pushes(own_broker.address, topic)
    connections = []
    try:
        for number in range(_CLIENTS):
            name = f"c{number}"
            connection = podpair.client.connect(
                gateway.ws, token=token(name, sid=name), on_gap=lambda _: None,
                on_event=lambda event, name=name: pushes.on_event(name, event),
            )  # fmt: skip
            pushes.sessions[name] = await connection.__aenter__()
            connections.append(connection)

        async def ask_all() -> None:
            asked = [session.infer("digits", _ROW, route="queue") for session in pushes.sessions.values()]
            async with asyncio.timeout(120):
                assert all(result.data["label"] for result in await asyncio.gather(*asked))

        async def made_again(name: str, partitions: int) -> None:
            def again() -> None:
                topics.delete(name)
                with contextlib.suppress(KafkaException):  # where that takes long the gateway has created it
                    topics.create(name, partitions)

            before = gateway.renewals(name)
            await asyncio.to_thread(again)
            await asyncio.to_thread(until, lambda: gateway.renewals(name) > before, lambda: gateway.lines[-20:])
            await asyncio.to_thread(gateway.wait_ready)

        await pushes.to_all(0)
        await ask_all()
        await asyncio.to_thread(own_broker.restart)
        await asyncio.to_thread(until, lambda: gateway.get("/readyz")[0] == 200)
        await ask_all()
        await pushes.to_all(1)
        width = len(topics.admin.list_topics(topic, timeout=10).topics[topic].partitions)
        await made_again(topic, width)
        await pushes.to_all(2)
        await ask_all()
        await made_again(names["requests"]["topic"], 8)
        await ask_all()
    finally:
        for connection in connections:
            await connection.__aexit__(None, None, None)


class Watched:
    """Something that reads topic `unwatched`, watched: nobody tells it what becomes of the topic."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.topics = TopicAdmin(broker.address)
        self.metrics = Metrics()
        self.came: list[bytes | None] = []
        self.next = 0  # the offset
        self.stalled: list[str] = []
        self.supervisor = Supervisor(self.metrics)

    def config(self, part: str) -> Config:
        return Config.model_validate({
            "auth": {"secret": SECRET}, "sessions": {"resume_secret": RESUME_SECRET},
            "kafka": {"bootstrap_servers": self.broker.address}, part: {"topic": "unwatched"},
        })  # fmt: skip

    def received(self, records: Any) -> None:
        for record in records:
            self.came.append(record.value())
            self.next = max(self.next, record.offset() + 1)

    def delivered(self, _: int, records: PartitionRecords) -> None:
        self.came += (value for group in records.groups.values() for _, value, _ in group)
        self.next = max(self.next, records.end)

    async def arrives(self, *texts: str) -> None:
        """Write something, and wait for the last of it."""
        producer = Producer({"bootstrap.servers": self.broker.address})
        for text in texts:
            producer.produce("unwatched", text)
        assert await asyncio.to_thread(producer.flush, 30) == 0
        last = texts[-1].encode()
        await asyncio.to_thread(until, lambda: last in self.came, lambda: f"{self.came} {self.stalled}", 60)

    async def made_again_after_a_restart(self) -> None:
        await self.arrives("one")
        await asyncio.to_thread(self.broker.restart)
        await self.arrives("two")
        assert not self.stalled
        await asyncio.to_thread(self.topics.recreate, "unwatched", 1)
        await self.arrives("a", "b", "c")

    def replaced(self, client: str) -> int:
        name, labels = "podpair_gateway_kafka_client_restarts_total", {"client": client, "reason": "stalled"}
        return int(self.metrics.registry.get_sample_value(name, labels) or 0)


@pytest.fixture
async def watched(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(stall_watch, "_EVERY", 0.5)
    made = Watched(own_broker)
    made.topics.create("unwatched", 1)
    yield made
    await made.supervisor.close()


@contextlib.asynccontextmanager
async def watching(
    watched: Watched, reached: Callable[[], Mapping[int, int]], stalled: Callable[[str], object]
) -> AsyncIterator[None]:
    def on_stalled(text: str) -> None:
        watched.stalled.append(text)
        stalled(text)

    config = watched.config("results")
    progress = GroupProgress(config, watched.topics.admin)
    watch = stall_watch.StallWatch(config, "unwatched", progress, stall_watch.WatchedReader(reached, on_stalled))
    try:
        yield
    finally:
        await watch.close()
        await progress.close()


async def test_a_reader_that_reads_nothing_any_more_is_replaced_whatever_it_was_told(watched: Watched) -> None:
    hooks = ResultsHooks(
        opened=lambda _, offset: setattr(watched, "next", offset), closed=lambda _: None, deliver=watched.delivered,
        lost=lambda _: None, failed=lambda: None, reached=lambda _: watched.next,
    )  # fmt: skip
    reader = ResultsReader(watched.config("results"), HomePartitions("e", 1), watched.supervisor, hooks)
    await reader.acquire("s")
    try:
        async with watching(watched, lambda: reader.reached, reader.stalled):
            await watched.made_again_after_a_restart()
            assert watched.stalled[0].startswith("nothing is read of unwatched[0]@2, although there are records")
            assert watched.replaced("results") == len(watched.stalled)
            await watched.arrives("d")
            assert not watched.supervisor.troubles
    finally:
        await reader.close()


class Work:
    """The worker of a group member."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self.owned: set[int] = set()

    @property
    def reached(self) -> dict[int, int]:
        return dict.fromkeys(self.owned, self._watched.next)

    def assigned(self, partitions: dict[int, Committed]) -> None:
        self.owned |= partitions.keys()

    def revoking(self, partitions: list[int]) -> None:
        self.owned -= {*partitions}

    def received(self, records: Any) -> None:
        self._watched.received(records)

    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]:
        return {}


async def test_a_group_member_that_gets_nothing_any_more_is_replaced(watched: Watched) -> None:
    work = Work(watched)
    config = watched.config("requests")
    gate = Gate(config.requests.in_flight)
    member = GroupMember(config, work, gate, lambda: frozenset(work.owned), watched.supervisor)
    member.start()
    try:
        async with watching(watched, lambda: work.reached, member.stalled):
            await watched.made_again_after_a_restart()
            assert watched.replaced("requests") == len(watched.stalled) > 0
    finally:
        await member.close()
