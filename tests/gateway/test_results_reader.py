"""Batches of the results topic come to the loop one after the other, whatever one of them does there."""

import asyncio
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from harness.record_batches import FakeMessage
from harness.waiting import soon
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.record_batch import PartitionRecords
from podpair.gateway.kafka import batch_consumer, results
from podpair.gateway.kafka.results import ResultsHooks, ResultsReader


class FakeConsumer:
    """Gives what it is given, all that there is in one batch."""

    def __init__(self, waiting: list[FakeMessage]) -> None:
        self._waiting = waiting

    def poll(self, timeout: float) -> FakeMessage | None:
        time.sleep(0.001)  # as one that waits for records
        return self._waiting.pop(0) if self._waiting else None

    def consume(self, most: int, timeout: float) -> list[FakeMessage]:
        taken = self._waiting[:most]
        del self._waiting[: len(taken)]
        return taken

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[FakeMessage]:
    """The records of the topic that are still to be read."""
    records: list[FakeMessage] = []
    monkeypatch.setattr(results, "Consumer", lambda _: FakeConsumer(records))
    monkeypatch.setattr(results, "OffsetQueries", lambda *_: mock.AsyncMock())
    monkeypatch.setattr(batch_consumer, "Message", FakeMessage)
    return records


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
