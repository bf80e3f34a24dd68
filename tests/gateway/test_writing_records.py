"""The producer: records go out in rounds, and what became of each is told once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from harness.pair import SECRET
from harness.processes import free_port
from podpair.common.gateway_config.model import Config
from podpair.gateway.kafka.producer import DeliveryError, RecordMetadata, RecordProducer
from podpair.gateway.metrics import Metrics


def made(timeout: float = 30.0, **kafka: Any) -> RecordProducer:
    config = Config.model_validate({"auth": {"secret": SECRET}, "sessions": {"resume_secret": SECRET}, "kafka": kafka})
    return RecordProducer(config, Metrics(), timeout=timeout)


@pytest.fixture
async def producer() -> AsyncIterator[RecordProducer]:
    """One whose broker is a mock of its own."""
    producer = made(embedded=True, client={"test.mock.num.brokers": 1, "message.max.bytes": 1_000_000})
    yield producer
    await producer.close(10)


class Told:
    """Hears what became of records, and how many were told of together."""

    def __init__(self, expected: int) -> None:
        self.outcomes: list[tuple[Any, RecordMetadata | DeliveryError]] = []
        self.batches: list[int] = []
        self._expected = expected
        self._all = asyncio.Event()

    def __call__(self, told: list[tuple[Any, RecordMetadata | DeliveryError]]) -> None:
        self.batches.append(len(told))
        self.outcomes += told
        if len(self.outcomes) >= self._expected:
            self._all.set()

    async def all(self) -> None:
        async with asyncio.timeout(30):
            await self._all.wait()


async def test_after_a_topic_was_replaced_records_go_out_with_another_producer(producer: RecordProducer) -> None:
    """What was on its way is told of, one way or the other, once."""
    told = Told(400)
    before = producer._producer
    for number in range(400):
        producer.send("t", b"", key=b"%d" % number, headers=[], callback=told, context=number)
        if number == 200:
            await asyncio.sleep(0)
            producer.topic_replaced()
    await told.all()
    assert sorted(context for context, _ in told.outcomes) == list(range(400))
    assert producer._producer is not before
    assert all(isinstance(outcome, RecordMetadata) for context, outcome in told.outcomes if context > 200)


async def test_records_with_one_key_keep_their_order_through_all_rounds(producer: RecordProducer) -> None:
    told = Told(2000)
    for number in range(2000):
        producer.send("t", b"%d" % number, key=b"k", headers=[], callback=told, context=number)
        if number % 100 == 0:
            await asyncio.sleep(0)  # rounds begin while others are under way
    await told.all()
    assert [context for context, _ in told.outcomes] == list(range(2000))
    places = [outcome for _, outcome in told.outcomes if isinstance(outcome, RecordMetadata)]
    assert [place.offset for place in places] == list(range(2000))
    assert len({place.partition for place in places}) == 1
    assert len(told.batches) < 1000, "acknowledgements are told by the batch"


async def test_a_record_that_is_refused_harms_no_other_of_its_round(producer: RecordProducer) -> None:
    told = Told(4)
    values: dict[str, Any] = {"first": b"1", "large": bytes(3_000_000), "no bytes": 1.5, "last": b"1"}
    for name, value in values.items():
        producer.send("t", value, key=None, headers=[], callback=told, context=name)
    await told.all()
    found = dict(told.outcomes)
    assert isinstance(found["first"], RecordMetadata)
    assert isinstance(found["last"], RecordMetadata)
    assert isinstance(found["large"], DeliveryError)
    assert found["large"].too_large
    assert isinstance(found["no bytes"], DeliveryError)
    assert not found["no bytes"].too_large


async def test_who_fails_to_take_an_outcome_keeps_it_from_no_other(producer: RecordProducer) -> None:
    def fails(_: object) -> None:
        raise ValueError("not this one")

    producer.send("t", b"1", key=None, headers=[], callback=fails)
    async with asyncio.timeout(30):
        assert (await producer.write("t", b"2", key=None, headers=[])).offset >= 0


async def test_closing_writes_what_waits(producer: RecordProducer) -> None:
    told = Told(50)
    for number in range(50):
        producer.send("t", b"%d" % number, key=None, headers=[], callback=told, context=number)
    assert await producer.close(30) == 0
    assert sorted(context for context, _ in told.outcomes) == list(range(50))
    assert all(isinstance(outcome, RecordMetadata) for _, outcome in told.outcomes)


async def test_without_a_broker_records_are_given_up_in_time() -> None:
    producer = made(timeout=1.0, bootstrap_servers=f"127.0.0.1:{free_port()}")
    try:
        with pytest.raises(DeliveryError):
            async with asyncio.timeout(30):
                await producer.write("t", b"1", key=None, headers=[])
    finally:
        await producer.close(0)
