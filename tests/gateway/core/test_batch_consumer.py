"""Batches grow with the load, and are bounded; what comes after a pause doesn't wait."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from harness.record_batches import FakeMessage
from podpair.gateway.kafka import batch_consumer
from podpair.gateway.kafka.batch_consumer import BatchConsumer


class Log:
    """A consumer, and the time: records come at given times, and time goes by where something waits."""

    def __init__(self, *times: float, linger: float = 0.001) -> None:
        self.now = 0.0
        self.waiting = list(times)
        self.waits: list[float] = []
        self.stopped_at = float("inf")
        consumer = cast("Any", SimpleNamespace(poll=self.poll, consume=self.consume))
        self.batches = BatchConsumer(consumer, linger, self.wait, lambda: self.now)

    def poll(self, timeout: float) -> Any:
        if not self.waiting or self.waiting[0] > self.now + timeout:
            self.now += timeout
            return None
        self.now = max(self.now, self.waiting[0])
        return self.consume(1, 0)[0]

    def consume(self, most: int, timeout: float) -> list[Any]:
        assert timeout == 0
        count = sum(time <= self.now for time in self.waiting[:most])
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return [message(time) for time in taken]

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return self.now >= self.stopped_at

    def read(self) -> int | None:
        """How many were read together."""
        batch = self.batches.read(0.05)
        return None if batch is None else batch.count


def message(_: float) -> FakeMessage:
    return FakeMessage()


@pytest.fixture(autouse=True)
def _fake_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_consumer, "Message", FakeMessage)


def test_the_first_record_and_one_after_a_pause_do_not_wait() -> None:
    log = Log(0.01, 0.1)
    assert [log.read(), log.read(), log.read(), log.read()] == [1, None, 1, None]
    assert log.waits == []


def test_under_load_records_are_held_for_a_moment() -> None:
    log = Log(0.01, 0.0105, 0.0106, 0.0107, 0.0114)
    assert [log.read(), log.read(), log.read()] == [1, 3, 1]
    assert log.waits == [batch_consumer._HOLD] * 2


def test_while_some_wait_no_others_are_fetched_for_as_long_as_the_linger() -> None:
    assert batch_consumer.fetching(0.002) == {"queued_min_messages": 1, "fetch_queue_backoff_ms": 2}
    assert batch_consumer.fetching(0.0001)["fetch_queue_backoff_ms"] == 1
    assert batch_consumer.fetching(0) == {}


def test_without_a_linger_nothing_waits() -> None:
    log = Log(*[0.01] * 3000, 0.0105, 0.0110, linger=0.0)
    assert [log.read(), log.read(), log.read()] == [3000, 1, 1]
    assert log.waits == []


def test_a_burst_is_gathered_while_it_lasts_but_not_for_long() -> None:
    log = Log(*[i / 100_000 for i in range(2_000, 20_000)])
    log.now = 0.03
    counts = []
    while (count := log.read()) is not None:
        counts.append(count)
    assert sum(counts) == 18_000
    assert len(counts) == 3
    assert max(log.waits) < batch_consumer._LONGEST


def test_once_a_burst_is_over_few_are_gathered_for_one_step() -> None:
    log = Log(*[0.0] * 2_000, *[0.0205 + i / 1_000 for i in range(100)])
    assert [log.read(), log.read(), log.read()] == [2_000, 11, 1]
    assert log.waits == [batch_consumer._STEP, batch_consumer._STEP, batch_consumer._HOLD]


def test_what_came_while_the_batch_before_was_delivered_is_added() -> None:
    log = Log(0.0, *[0.1] * 5_000)
    batch = log.batches.read(0.05)
    assert batch is not None
    log.now = 0.2
    log.batches.extend(batch)
    assert batch.count == 5_001


def test_nothing_is_gathered_once_reading_is_to_stop() -> None:
    log = Log(*[i / 100_000 for i in range(50_000)])
    log.now = log.stopped_at = 0.1
    log.read()
    assert log.now == pytest.approx(0.11)


def test_a_batch_is_bounded_in_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_consumer, "_RECORDS", 5_000)
    log = Log(*[0.0] * 12_000)
    assert [log.read(), log.read(), log.read()] == [6_001, 5_999, None]


def test_a_batch_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_consumer, "_BYTES", 3_000)
    log = Log(*[0.0] * 6_000)
    assert log.read() == 4_001


def test_errors_are_told_from_records() -> None:
    batch = batch_consumer.Batch()
    failed = FakeMessage(b"why", failed=KafkaError(KafkaError._AUTO_OFFSET_RESET))  # which compares with no other kind
    batch.add(cast("Any", [FakeMessage(b"12"), failed, FakeMessage(b"345")]))
    assert batch.errors == [failed]
    assert (batch.count, batch.size, batch.records.partitions[0].count) == (3, 5, 2)
    assert batch.errors == [failed], "each is looked at once"


@pytest.mark.parametrize("count", [3, 300])
def test_headers_that_can_not_be_read_cost_their_own_record_alone(count: int) -> None:
    class Unreadable(FakeMessage):
        asked = 0

        def headers(self) -> None:
            self.asked += 1
            raise SystemError("not text")

    bad = Unreadable(b"bad")
    batch = batch_consumer.Batch()
    batch.add(cast("Any", [FakeMessage(b"a"), bad, *[FakeMessage(b"b")] * (count - 2)]))
    records = batch.records.partitions[0].groups[b"k"]
    assert [value for _, value, _ in records] == [b"a", b"bad", *[b"b"] * (count - 2)]
    assert records[1][2] is None
    assert bad.asked == 1
