"""Batches of the results topic come to the loop one after the other, whatever one of them does there."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from confluent_kafka import KafkaError, KafkaException

from harness.record_batches import FakeMessage
from harness.waiting import soon
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.record_batch import PartitionRecords
from podpair.gateway.kafka import batch_consumer, results
from podpair.gateway.kafka.results import ResultsHooks, ResultsReader


class Source:
    """What consumers give: records that wait, all that there are in one batch; and by whom they were taken."""

    def __init__(self) -> None:
        self.waiting: list[FakeMessage] = []
        self.takers: list[str] = []  # threads that took the records
        self.failure: KafkaError | None = None  # of whoever looks for records
        self.assigned: list[Any] = []
        self.closed = 0  # consumers

    def poll(self, timeout: float) -> FakeMessage | None:
        time.sleep(0.001)  # as one that waits for records
        found = self.consume(1, 0)
        return found[0] if found else None

    def consume(self, most: int, timeout: float) -> list[FakeMessage]:
        if self.failure is not None:
            raise KafkaException(self.failure)
        taken = self.waiting[:most]
        del self.waiting[: len(taken)]
        self.takers += [threading.current_thread().name] * len(taken)
        return taken

    def incremental_assign(self, places: list[Any]) -> None:
        self.assigned += places

    def incremental_unassign(self, places: list[Any]) -> None:
        """What is read doesn't depend on it here."""

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """The topic."""
    found = Source()
    monkeypatch.setattr(results, "Consumer", lambda _: found)
    monkeypatch.setattr(results, "OffsetQueries", lambda *_: mock.Mock(close=mock.AsyncMock()))
    monkeypatch.setattr(batch_consumer, "Message", FakeMessage)
    return found


@pytest.fixture
def waiting(source: Source) -> list[FakeMessage]:
    """The records of the topic that are still to be read."""
    return source.waiting


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have records come one after the other, however long the next one takes."""
    monkeypatch.setattr(batch_consumer, "_PAUSE", 60.0)
    monkeypatch.setattr(batch_consumer, "_LOOKS", 1 << 30)


def reader_of(config: Config, deliver: Callable[[int, PartitionRecords], object]) -> ResultsReader:
    hooks: Any = mock.Mock(spec_set=ResultsHooks, deliver=deliver)
    return ResultsReader(config, mock.Mock(), mock.MagicMock(), hooks)


@pytest.fixture
def config() -> Config:
    return Config.model_validate({"auth": {"secret": "s" * 32}, "sessions": {"resume_secret": "r" * 32}})


async def test_others_have_their_turn_between_the_partitions_of_a_large_batch(
    waiting: list[FakeMessage], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_TURN", 2)
    order: list[object] = []

    def deliver(partition: int, records: PartitionRecords) -> None:
        order.append((partition, records.count))
        asyncio.get_running_loop().call_soon(order.append, "others")

    waiting += [FakeMessage(partition=partition) for partition in (0, 0, 1, 1, 2, 2)]
    reader = reader_of(config, deliver)
    await soon(lambda: len(order) == 6)
    await reader.close()
    assert order == [(0, 2), "others", (1, 2), "others", (2, 2), "others"]


async def test_a_partition_that_can_not_be_delivered_keeps_no_other_from_it(
    waiting: list[FakeMessage], config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    delivered: list[int] = []

    def deliver(partition: int, _: PartitionRecords) -> None:
        if partition == 0:
            raise RuntimeError("out of order")
        delivered.append(partition)

    waiting += [FakeMessage(partition=partition) for partition in (0, 1)]
    reader = reader_of(config, deliver)
    await soon(lambda: delivered == [1])
    waiting += [FakeMessage(partition=2)]
    await soon(lambda: delivered == [1, 2])
    await reader.close()
    assert "[0] failed" in caplog.text


async def steady(source: Source, config: Config, delivered: list[int]) -> ResultsReader:
    """A reader to which records come one after the other, two of them so far."""
    reader = reader_of(config, lambda partition, _: delivered.append(partition))
    for count in (1, 2):
        source.waiting += [FakeMessage()]
        await soon(lambda count=count: len(delivered) == count)  # type: ignore[misc]
    return reader


@pytest.mark.usefixtures("_no_pause")
async def test_records_that_come_one_after_the_other_wake_no_thread(source: Source, config: Config) -> None:
    delivered: list[int] = []
    reader = await steady(source, config, delivered)
    source.waiting += [FakeMessage(partition=1)]
    await soon(lambda: len(delivered) == 3)
    source.waiting += [FakeMessage(partition=2), FakeMessage(partition=3)]
    await soon(lambda: len(delivered) == 5)
    await reader.close()
    assert delivered == [0, 0, 1, 2, 3]
    assert source.takers == ["kafka-results"] * 2 + ["MainThread"] * 3
    assert source.closed == 1


@pytest.mark.usefixtures("_no_pause")
async def test_a_partition_is_assigned_while_records_come_one_after_the_other(source: Source, config: Config) -> None:
    delivered: list[int] = []
    reader = await steady(source, config, delivered)
    reader.move(3, 7)
    await soon(lambda: [(place.partition, place.offset) for place in source.assigned] == [(3, 7)])
    source.waiting += [FakeMessage(partition=3)]
    await soon(lambda: delivered == [0, 0, 3])
    await reader.close()


@pytest.mark.usefixtures("_no_pause")
async def test_once_records_pause_the_thread_waits_for_them(
    source: Source, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered: list[int] = []
    reader = await steady(source, config, delivered)
    monkeypatch.setattr(batch_consumer, "_LOOKS", 4)
    await soon(lambda: not reader._turn.locked())
    source.waiting += [FakeMessage(partition=1)]
    await soon(lambda: len(delivered) == 3)
    await reader.close()
    assert source.takers == ["kafka-results"] * 3


@pytest.mark.usefixtures("_no_pause")
async def test_a_consumer_that_dies_while_the_loop_takes_its_records_is_told(source: Source, config: Config) -> None:
    reader = await steady(source, config, [])
    client: Any = reader._client
    source.failure = KafkaError(KafkaError._FATAL)
    await soon(lambda: mock.call(source.failure) in client.died.mock_calls)
    await reader.close()


@pytest.mark.usefixtures("_no_pause")
async def test_a_consumer_that_was_replaced_gives_nothing_more(source: Source, config: Config) -> None:
    delivered: list[int] = []
    reader = await steady(source, config, delivered)
    former = reader._thread
    reader.changed(widened_from=None)
    await soon(lambda: not former.is_alive())
    assert source.closed == 1
    source.waiting += [FakeMessage(partition=1)]
    await soon(lambda: len(delivered) == 3)
    await reader.close()
    assert source.takers[2:] == ["kafka-results"]
