"""The requests consumer where the group takes partitions away and gives them back while its gateway hardly runs."""

import asyncio
import threading
import time
from typing import Any
from unittest import mock

import pytest
from confluent_kafka import TopicPartition

from harness.pair import RESUME_SECRET, SECRET
from harness.waiting import soon
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import Commit, Committed
from podpair.gateway.kafka import requests

_CONFIG = Config.model_validate({"auth": {"secret": SECRET}, "sessions": {"resume_secret": RESUME_SECRET}})


class Told:
    """A worker that notes what it is told, and which partitions it believes to have."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.offsets: list[int] = []
        self.let_go = asyncio.Event()

    def assigned(self, partitions: dict[int, Committed]) -> None:
        self.held |= partitions.keys()

    def revoking(self, partitions: list[int]) -> None:
        self.held -= {*partitions}

    def received(self, records: list[Any]) -> None:
        self.offsets += [record.offset() for record in records]

    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]:
        self.let_go.set()
        return {}


def record(partition: int, offset: int) -> Any:
    found = mock.Mock()
    found.error.return_value, found.partition.return_value, found.offset.return_value = None, partition, offset
    return found


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What stands in for librdkafka's consumer: it says that 480 is committed."""
    kafka = mock.MagicMock()
    kafka.committed.side_effect = lambda places, **_: [TopicPartition(p.topic, p.partition, 480) for p in places]
    monkeypatch.setattr(requests, "Consumer", lambda _: kafka)
    return kafka


async def test_what_is_given_back_is_kept_although_the_loop_stood_still_when_it_was_taken(
    kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a process is frozen: the consumer's thread has waited for long enough before the loop has turned once."""
    monkeypatch.setattr(requests, "_REVOKE", 0.01)
    worker = Told()
    worker.assigned({1: Committed()})
    consumer = requests.RequestsConsumer(_CONFIG, worker)
    place = [TopicPartition("podpair.requests", 1)]

    def in_the_thread() -> None:
        consumer._on_lost(kafka, place)
        consumer._on_assign(kafka, place)

    thread = threading.Thread(target=in_the_thread)
    thread.start()
    thread.join()  # the loop stands still meanwhile
    await asyncio.wait_for(worker.let_go.wait(), 30)
    assert worker.held == {1}


async def test_a_record_of_before_does_not_hide_those_that_are_read_again(kafka: Any) -> None:
    """A partition goes and comes back between the first record of a batch and the others, which begin before it."""
    worker = Told()
    consumer = requests.RequestsConsumer(_CONFIG, worker)
    place = [TopicPartition("podpair.requests", 1)]
    read = [record(1, 520)]

    def poll(_: float) -> Any:
        if read:
            return read.pop()
        time.sleep(0.01)  # as a poll waits that finds nothing
        return None

    def consume(*_: Any) -> list[Any]:
        consumer._on_lost(kafka, place)
        consumer._on_assign(kafka, place)
        return [record(1, 480), record(2, 7)]

    kafka.poll.side_effect, kafka.consume.side_effect = poll, consume
    consumer.start()
    await asyncio.wait_for(worker.let_go.wait(), 30)
    await soon(lambda: worker.offsets)
    await consumer.close()
    assert worker.offsets == [480, 7]
    assert worker.held == {1}


async def test_it_counts_how_often_the_worker_keeps_it_from_reading(kafka: Any) -> None:
    """What it has fetched of one partition stands before the others then: who reads nothing of these is not to blame."""
    worker, gate = Told(), requests.Gate(3)
    consumer = requests.RequestsConsumer(_CONFIG, worker, gate)
    fetched = [record(1, 0), record(1, 1), record(1, 2)]

    def poll(_: float) -> Any:
        if fetched:
            return fetched.pop(0)
        time.sleep(0.01)  # as a poll waits that finds nothing
        return None

    kafka.poll.side_effect, kafka.consume.return_value = poll, []
    consumer.start()
    await soon(lambda: len(worker.offsets) == 3)
    assert gate.held == 1
    gate.give_room(3)
    gate.set_paused(True)
    gate.set_paused(False)
    assert gate.held == 2
    await consumer.close()
