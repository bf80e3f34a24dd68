"""Queued requests whose record or answer is gone from Kafka end in an error: nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from gateway.conftest import Connect
from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.topics import TopicAdmin
from harness.waiting import soon, until
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.ledger import Ledger, OpenRequest
from podpair.gateway.core.offsets import encode_finished
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.tails import PartitionTail
from podpair.gateway.kafka import requests_log
from podpair.gateway.kafka.group_progress import GroupProgress, Progress
from podpair.gateway.kafka.log_reader import LogSlice
from podpair.gateway.sessions import lost_requests
from podpair.gateway.sessions.lost_requests import LostRequests, RequestsLookup
from podpair.gateway.sessions.session import Session

NUMBERS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


async def test_the_requests_topic_is_made_again_while_requests_wait(
    real_gateway: Callable[..., Gateway], model: FakeModel, connect: Connect, broker: Broker, names: dict[str, Any]
) -> None:
    """Their records are gone; one that was queued into the new topic is not taken for lost."""
    requests = names["requests"]["topic"]
    topics = TopicAdmin(broker.address)
    gateway = real_gateway(
        kafka={"probe_seconds": 0.2}, inference={"url": model.url, "probe_seconds": 0.1}, requests={"partitions": 2}
    )
    model.open.clear()
    client = await connect(gateway, sid="waiting")
    for number in range(10):
        await client.infer(f"q{number}", route="queue", data=None, **NUMBERS)
        await client.event("accepted", id=f"q{number}")
    await asyncio.to_thread(topics.recreate, requests, 2)
    ended = [await client.event("error") for _ in range(10)]
    assert sorted(event["id"] for event in ended) == sorted(f"q{number}" for number in range(10))
    assert {event["code"] for event in ended} == {"lost"}
    assert all("position" in event for event in ended), "it is in the log, wherever their client comes back"
    model.open.set()
    for number in range(2):  # an invitation to ask again
        await client.infer(f"q{number}", route="queue", data=None, retry=True, **NUMBERS)
        assert (await client.answer(f"q{number}"))["type"] == "result"
    assert "deleted" in ended[0]["message"]


@pytest.mark.parametrize("connected_before", [True, False])
async def test_requests_whose_client_is_away_end_when_their_topic_is_made_again(
    real_gateway: Callable[..., Gateway],
    model: FakeModel,
    connect: Connect,
    broker: Broker,
    names: dict[str, Any],
    connected_before: bool,
) -> None:
    """Their places in the limit are free again, and their errors wait in the log for who comes back."""
    gateway = real_gateway(
        kafka={"probe_seconds": 0.2}, inference={"url": model.url, "probe_seconds": 0.1},
        requests={"partitions": 2}, limits={"in_flight": 4},
    )  # fmt: skip
    model.open.clear()
    if connected_before:
        client = await connect(gateway, sid="away")
        for number in range(2):
            await client.infer(f"q{number}", route="queue", data=None, **NUMBERS)
            await client.event("accepted", id=f"q{number}")
        await client.socket.close()

    async def post(request_id: str) -> int:
        body = {"type": "infer", "id": request_id, "model": "digits", "route": "queue", **NUMBERS}
        bearer = {"Authorization": f"Bearer {token(sid='away')}"}
        async with http.post(gateway.url + "/v1/infer", json=body, headers=bearer) as answer:
            return answer.status

    async with aiohttp.ClientSession() as http:
        for number in range(2 if connected_before else 0, 4):
            assert await post(f"q{number}") == 202
        assert await post("more") == 429
        await asyncio.to_thread(TopicAdmin(broker.address).recreate, names["requests"]["topic"], 2)
        await asyncio.to_thread(until, lambda: gateway.metric("requests_completed_total", outcome="lost") == 4)
        for number in range(4):
            assert await post(f"again{number}") == 202
        assert await post("more") == 429
    model.open.set()
    reader = Consumer({"bootstrap.servers": broker.address, "group.id": "reader", "log_level": 0})
    results = names["results"]["topic"]
    width = len(reader.list_topics(results, timeout=30).topics[results].partitions)
    reader.assign([TopicPartition(results, partition, OFFSET_BEGINNING) for partition in range(width)])
    ended: dict[str, str] = {}
    async with asyncio.timeout(60):
        while len(ended) < 8:
            for record in await asyncio.to_thread(reader.consume, 100, 0.2):
                headers = dict(record.headers() or ())
                if headers["ce_type"].endswith((b".error", b".result")):
                    ended[headers["ce_id"].decode()] = headers["ce_type"].decode().rpartition(".")[2]
    reader.close()
    assert ended == {f"q{n}": "error" for n in range(4)} | {f"again{n}": "result" for n in range(4)}


@pytest.fixture
async def progress(broker: Broker, names: dict[str, Any]) -> AsyncIterator[GroupProgress]:
    topics = TopicAdmin(broker.address)
    for name in (names["requests"]["topic"], names["results"]["topic"]):
        topics.create(name, 2)
    asking = GroupProgress(_config(names, broker.address), topics.admin)
    yield asking
    await asking.close()


def _config(names: dict[str, Any], address: str = "127.0.0.1:1") -> Config:
    return Config.model_validate({"auth": {"disabled": True}, "kafka": {"bootstrap_servers": address}, **names})


async def test_what_the_group_has_finished_is_asked_from_the_broker(
    progress: GroupProgress, broker: Broker, names: dict[str, Any]
) -> None:
    topic, group = names["requests"]["topic"], names["requests"]["group"]
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    for _ in range(10):
        producer.produce(topic, b"{}", partition=1)
    assert producer.flush(10) == 0
    member = Consumer({"bootstrap.servers": broker.address, "group.id": group, "log_level": 0})
    place = TopicPartition(topic, 1, 4, metadata=encode_finished({6}, 4))
    await asyncio.to_thread(member.commit, offsets=[place], asynchronous=False)
    await asyncio.to_thread(TopicAdmin(broker.address).cut, topic, 1, 3)
    found = await progress.progress({0, 1})
    assert found[1] == Progress(3, 10, 4, frozenset({6}))
    assert [found[1].has_finished(offset) for offset in (3, 4, 6, 7)] == [True, False, True, False]
    assert [found[1].holds(offset) for offset in (2, 3, 9, 10)] == [False, True, True, False]
    assert not found[0].has_finished(0)
    assert not Progress(0, 3, 10, frozenset()).has_finished(1), "what was committed is another log's"
    member.close()


async def test_an_open_transaction_hides_what_is_behind_it(
    progress: GroupProgress, broker: Broker, names: dict[str, Any]
) -> None:
    producer = Producer(
        {"bootstrap.servers": broker.address, "transactional.id": names["requests"]["group"], "log_level": 0}
    )
    await asyncio.to_thread(producer.init_transactions, 30)
    await soon(lambda: readable_end(progress, 0))
    producer.begin_transaction()
    producer.produce(names["results"]["topic"], b"{}", partition=0)
    await asyncio.to_thread(producer.flush, 10)
    await soon(lambda: readable_end(progress, None))
    await asyncio.to_thread(producer.commit_transaction, 30)
    await soon(lambda: readable_end(progress, 2))  # the transaction's marker counts; it may come between two questions


async def test_a_topic_that_is_written_to_all_the_time_is_read_up_to_where_it_ended(
    progress: GroupProgress, broker: Broker, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is not reported then: findings/end-of-partition-is-not-reported-while-written.sh."""
    monkeypatch.setattr(requests_log, "_PATIENCE", 5.0)
    topic, headers = names["requests"]["topic"], {"ce_subject": "s", "ce_id": "q"}
    producer, over = Producer({"bootstrap.servers": broker.address, "linger.ms": 0, "log_level": 0}), asyncio.Event()
    producer.produce(topic, b"{}", partition=1, headers=headers)

    async def write() -> None:
        while not over.is_set():
            producer.produce(topic, b"{}", partition=1)
            producer.poll(0)
            await asyncio.sleep(0.05)

    writing = asyncio.create_task(write())
    found = await requests_log.places_of(_config(names, broker.address), {("s", "q")})
    over.set()
    await writing
    assert found == {("s", "q"): requests_log.Place(1, 0)}


async def readable_end(progress: GroupProgress, expected: int | None) -> bool:
    """Whether the first results partition can be read up to there; None: not up to its end."""
    return await progress.readable_end(0) == expected


class World:
    """One session with an open request at offset 5 of request partition 0, and what is in Kafka by hand."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.session = Session("s", "u", 0, Ledger(8))
        self.session.connection = cast("Any", object())
        self.session.live = True
        self.session.ledger.open(
            "q", OpenRequest("queue", cancels_on_disconnect=False, accepted=True, partition=0, offset=5)
        )
        self.place = Progress(0, 10, 0, frozenset())
        self.end: int | None = 3
        self.records: list[Any] = []
        self.ended: list[str] = []
        self.going_on: set[tuple[str, str]] | None = None
        tails = {0: PartitionTail(3, 1 << 20)}
        self.lost = LostRequests(
            _config(names), {b"s": self.session}, cast("Any", SimpleNamespace(tails=tails)),
            RequestsLookup(cast("Any", self), cast("Any", self), lambda: 4), self._fail,
        )  # fmt: skip

    def with_workflows(self) -> None:
        """Have the request be a workflow's."""

        async def runs_on(_: str) -> bool:
            return True

        async def going_on(_: Any) -> set[tuple[str, str]]:
            return self.going_on or set()

        self.lost._runs_on, self.lost._going_on = runs_on, going_on

    def _fail(self, session: Session, request_id: str, fault: Fault) -> None:
        session.ledger.end(request_id)
        self.ended.append(fault.message)

    async def progress(self, _: Any) -> dict[int, Progress]:
        return {0: self.place}

    async def readable_end(self, _: int) -> int | None:
        return self.end

    async def read(self, *_: Any) -> LogSlice:
        assert self.end is not None
        return LogSlice(self.records, self.end)

    async def looks(self, times: int = 2) -> None:
        for _ in range(times):  # the first looks only which there are
            await self.lost._check()
        await self.lost.close()


def answer(request_id: str, kind: str = "result") -> Any:
    headers = [("ce_id", request_id.encode()), ("ce_type", f"dev.podpair.{kind}".encode())]
    return 0, b"{}", headers


@pytest.mark.parametrize(("committed", "finished"), [(6, ()), (3, (5,))])
async def test_one_that_is_finished_and_has_no_answer_is_ended(
    names: dict[str, Any], committed: int, finished: tuple[int, ...]
) -> None:
    world = World(names)
    world.place, world.end = Progress(0, 10, committed, frozenset(finished)), 7
    world.records = [answer("another"), answer("q", "partial")]
    await world.looks()
    assert len(world.ended) == 1
    assert "its result is gone" in world.ended[0]


async def test_one_whose_record_is_gone_is_ended_once_no_worker_can_have_it(names: dict[str, Any]) -> None:
    world = World(names)
    world.place = Progress(6, 10, 0, frozenset())
    await world.looks()
    assert world.ended == []
    world.lost._missing = dict.fromkeys(world.lost._missing, 0.0)
    await world.looks(1)
    assert len(world.ended) == 1
    assert "record was deleted" in world.ended[0]


async def test_one_of_a_partition_that_is_not_there_any_more_is_ended(names: dict[str, Any]) -> None:
    """The topic was made again with fewer."""
    world = World(names)
    request = world.session.ledger.get("q")
    assert request is not None
    request.partition = 4
    await world.looks()
    world.lost._missing = dict.fromkeys(world.lost._missing, 0.0)
    await world.looks(1)
    assert len(world.ended) == 1
    assert "record was deleted" in world.ended[0]


@pytest.mark.parametrize("replaced", [True, False])
async def test_a_workflow_whose_record_is_gone_is_ended_only_if_it_does_not_go_on(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    world = World(names)
    world.with_workflows()
    world.place = Progress(6, 10, 0, frozenset())
    if replaced:  # by one that has records at that place, too
        world.place = Progress(0, 10, 9, frozenset())
        monkeypatch.setattr(lost_requests, "places_of", lambda *_: asyncio.sleep(0, {}))
        monkeypatch.setattr(lost_requests, "_UNSETTLED", 0.0)
        await world.lost.requests_changed()
    world.going_on, world.end = {("s", "q")}, 7
    await world.looks()
    for _ in range(2):
        assert world.ended == []
        world.lost._missing = dict.fromkeys(world.lost._missing, 0.0)
        await world.looks(1)
    world.records, world.going_on = [answer("q")], None  # it has ended: its result is on the way
    world.lost._missing = dict.fromkeys(world.lost._missing, 0.0)
    await world.looks(1)
    assert world.ended == []
    world.records = []
    await world.looks(1)
    assert len(world.ended) == 1
    assert "record was deleted" in world.ended[0]


async def test_what_went_with_the_topic_is_ended_although_the_results_could_not_be_read_at_first(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(names)
    asked: list[int] = []

    async def nowhere(*_: Any) -> dict[Any, Any]:
        return {}

    async def end(partition: int) -> int:
        asked.append(partition)
        if len(asked) < 3:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no history"))
        return 7

    monkeypatch.setattr(lost_requests, "places_of", nowhere)
    monkeypatch.setattr(lost_requests, "_RETRY", 0.0)
    monkeypatch.setattr(world, "readable_end", end)
    world.end = 7
    await world.lost.requests_changed()
    await world.lost.close()
    assert len(world.ended) == 1
    assert "record was deleted" in world.ended[0]


async def _not_finished(world: World) -> None:
    world.place = Progress(0, 10, 5, frozenset({6}))


async def _answered(world: World) -> None:
    world.end, world.records = 7, [answer("q")]


async def _hidden(world: World) -> None:
    world.end = None


async def _catching_up(world: World) -> None:
    world.session.live = False


async def _stale_commit(world: World) -> None:
    world.place = Progress(0, 7, 8, frozenset())


@pytest.mark.parametrize("state", [_not_finished, _answered, _hidden, _catching_up, _stale_commit])
async def test_others_are_left_open(names: dict[str, Any], state: Callable[[World], Any]) -> None:
    world = World(names)
    world.place = Progress(0, 10, 6, frozenset())
    await state(world)
    await world.looks()
    assert world.ended == []
