"""A Kafka client that is dead, or stuck in a call, is replaced; what it was doing is neither lost nor done twice."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import Commit
from podpair.gateway.kafka import log_reader, offsets, supervisor, transactions
from podpair.gateway.kafka.supervisor import SupervisedClient, Supervisor, cause, is_dead
from podpair.gateway.metrics import Metrics

_CONFIG = Config.model_validate({"auth": {"disabled": True}})
_FATAL = KafkaError(
    KafkaError._FATAL,
    "Fatal error: Broker: The group id does not exist: ConsumerGroupHeartbeat fatal error: Broker: The group id does not exist",
)


@pytest.fixture
async def supervised(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    """A supervisor that looks often and waits for little."""
    for name, seconds in {"_LOOK": 0.01, "_SLACK": 0.05, "_FIRST": 0.01}.items():
        monkeypatch.setattr(supervisor, name, seconds)
    made = Supervisor(Metrics())
    yield made
    await made.close()


def restarts(made: Supervisor, client: str, reason: str) -> float:
    found = made._metrics.registry.get_sample_value(
        "podpair_gateway_kafka_client_restarts_total", {"client": client, "reason": reason}
    )
    return found or 0.0


@pytest.mark.parametrize(
    ("error", "dead"),
    [
        (_FATAL, True),  # though its fatal() says False
        (KafkaError(KafkaError.FENCED_INSTANCE_ID), True),
        (KafkaError(KafkaError.UNRELEASED_INSTANCE_ID), True),
        (KafkaError(KafkaError.INCONSISTENT_GROUP_PROTOCOL), True),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN), False),
        (KafkaError(KafkaError._TRANSPORT), False),
        (KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION), False),
    ],
)
def test_what_a_client_does_not_recover_from(error: KafkaError, dead: bool) -> None:
    assert not _FATAL.fatal()
    assert is_dead(error) == dead


def test_the_cause_of_a_fatal_error_is_in_its_text() -> None:
    assert cause(_FATAL) == KafkaError.GROUP_ID_NOT_FOUND
    assert cause(KafkaError(KafkaError._FATAL, "Broker: Static consumer fenced by other consumer with same "
                            "group.instance.id")) == KafkaError.FENCED_INSTANCE_ID  # fmt: skip
    assert cause(KafkaError(KafkaError._FATAL, "nobody knows")) == KafkaError._FATAL


async def test_one_that_dies_is_replaced_and_told_of_meanwhile(
    supervised: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    replaced = asyncio.Event()
    client = supervised.watch("c", replaced.set)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            replaced.clear()
            client.died(_FATAL)
            client.died(_FATAL)  # what is told twice of one death is one
            assert "group id does not exist" in supervised.troubles["c"]
            await asyncio.wait_for(replaced.wait(), 30)
    assert supervised.troubles  # until it works
    client.works()
    assert supervised.troubles == {}
    assert restarts(supervised, "c", "GROUP_ID_NOT_FOUND") == 3
    assert len(caplog.records) == 1


async def test_one_that_can_not_be_replaced_is_tried_again(supervised: Supervisor) -> None:
    tries: list[int] = []
    done = asyncio.Event()

    def replace() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise KafkaException(KafkaError(KafkaError._FAIL))
        done.set()

    supervised.watch("c", replace).died(_FATAL)
    await asyncio.wait_for(done.wait(), 30)
    assert len(tries) == 3


async def test_one_that_is_stuck_in_a_call_is_replaced_but_not_one_that_waits_inside(supervised: Supervisor) -> None:
    replaced = asyncio.Event()
    client: SupervisedClient = supervised.watch("c", replaced.set)
    calls = client.calls()
    with calls.within(0.0):
        with calls.within(float("inf")):  # a callback that waits for us
            await asyncio.sleep(0.3)  # several looks at it, which find nothing wrong
        assert not replaced.is_set()
        await asyncio.wait_for(replaced.wait(), 30)
    assert restarts(supervised, "c", "stuck") == 1


class Stuck:
    """Of the producers that are made the first never comes back from `where`; the group tells that `told` is committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str, told: list[TopicPartition]) -> None:
        self.producers: list[mock.MagicMock] = []
        self._where = where
        self.let_go = threading.Event()
        asking = mock.MagicMock()
        asking.committed.return_value = told
        monkeypatch.setattr(transactions, "Producer", self._made)
        monkeypatch.setattr(transactions, "Consumer", lambda _: asking)
        monkeypatch.setattr(transactions, "_LATE", 0.05)
        monkeypatch.setattr(transactions, "_STEP", 0.05)

    def _made(self, _: Any) -> Any:
        producer = mock.MagicMock()
        if not self.producers:
            getattr(producer, self._where).side_effect = lambda *_: self.let_go.wait(60)
        self.producers.append(producer)
        return producer


@pytest.mark.parametrize("where", ["init_transactions", "send_offsets_to_transaction", "commit_transaction"])
@pytest.mark.parametrize("committed", [True, False])
async def test_a_transaction_whose_call_does_not_come_back_has_an_outcome(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch, where: str, committed: bool
) -> None:
    topic = _CONFIG.requests.topic
    stuck = Stuck(monkeypatch, where, [TopicPartition(topic, 1, 7 if committed else 3, metadata="m")])
    made = transactions.Transactions(_CONFIG, "name", 1_000_000, supervised._metrics, supervised)
    committing = made.commit([], {1: Commit(7, "m")}, None)
    try:
        async with asyncio.timeout(60):
            if committed:
                await committing
            else:
                with pytest.raises(transactions.TransactionAborted):
                    await committing
            await made.commit([], {1: Commit(8, "")}, None)
        assert len(stuck.producers) == 2  # the second has fenced the first
        assert restarts(supervised, "transactions", "stuck") == 1
        assert supervised.troubles == {}
    finally:
        stuck.let_go.set()
        await made.close()


async def test_questions_for_offsets_are_shared_and_end_with_the_broker(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, asked = threading.Event(), []

    def answer(place: TopicPartition, **_: Any) -> tuple[int, int]:
        asked.append(place.partition)
        let_go.wait(60)
        return (1, 2)

    consumer = mock.MagicMock()
    consumer.get_watermark_offsets.side_effect = answer
    monkeypatch.setattr(offsets, "Consumer", lambda _: consumer)
    watch = mock.MagicMock(broker_error=None)
    queries = offsets.OffsetQueries(_CONFIG, supervised, watch)
    told = watch.on_broker_change.call_args.args[0]
    try:
        async with asyncio.timeout(60):
            many = [asyncio.ensure_future(queries.watermarks(0)) for _ in range(8)]
            await asyncio.sleep(0)
            let_go.set()
            assert await asyncio.gather(*many) == [(1, 2)] * 8
            assert asked == [0]
            let_go.clear()
            waiting = [asyncio.ensure_future(queries.watermarks(partition)) for partition in range(8)]
            await asyncio.sleep(0)
            watch.broker_error = "no answer"
            told("no answer")  # those that wait are told at once
            assert all(isinstance(e, KafkaException) for e in await asyncio.gather(*waiting, return_exceptions=True))
            with pytest.raises(KafkaException, match="no answer"):
                await queries.watermarks(0)
    finally:
        let_go.set()
        await queries.close()


async def test_offsets_are_asked_for_with_another_client_where_one_is_stuck(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "_TIMEOUT", 0.1)
    let_go = threading.Event()
    consumers: list[mock.MagicMock] = []

    def made(_: Any) -> Any:
        consumer = mock.MagicMock()
        consumer.get_watermark_offsets.return_value = (1, 2)
        if not consumers:
            consumer.get_watermark_offsets.side_effect = lambda *_, **__: let_go.wait(60)
        consumers.append(consumer)
        return consumer

    monkeypatch.setattr(offsets, "Consumer", made)
    queries = offsets.OffsetQueries(_CONFIG, supervised)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(KafkaException):
                await queries.watermarks(0)
            assert await queries.watermarks(0) == (1, 2)
        assert len(consumers) == 2
    finally:
        let_go.set()
        await queries.close()


async def test_history_is_read_with_another_client_where_one_is_stuck(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_PATIENCE", 0.05)
    let_go = threading.Event()
    consumers: list[mock.MagicMock] = []

    def made(_: Any) -> Any:
        consumer = mock.MagicMock()
        end = mock.MagicMock()
        end.error.return_value = KafkaError(KafkaError._PARTITION_EOF)
        consumer.poll.return_value, consumer.consume.return_value = end, []
        if not consumers:
            consumer.poll.side_effect = lambda *_: let_go.wait(60) and None
        consumers.append(consumer)
        return consumer

    monkeypatch.setattr(log_reader, "Consumer", made)
    reading = log_reader.LogReader(_CONFIG, supervised)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(KafkaException):
                await reading.read(0, b"s", 0, 10)
            assert (await reading.read(0, b"s", 0, 10)).records == []
    finally:
        let_go.set()
        await reading.close()
