"""In which order a gateway reads subscriptions and what they are for."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from podpair.common.gateway_config.model import Config
from podpair.gateway.deliveries.consumer import DeliveryConsumer, Wishes
from podpair.gateway.deliveries.subscription_log import SubscriptionRecord
from podpair.gateway.kafka.supervisor import CallDeadlines

SUBSCRIPTION = SubscriptionRecord(b"sub_1", b"{}", (0, 0))


class Message:
    """A record of a topic."""

    def __init__(self, topic: str) -> None:
        self.topic = lambda: topic
        self.partition = self.offset = lambda: 0
        self.timestamp = lambda: (1, 0)
        self.key = self.value = lambda: b"1"
        self.headers = self.error = lambda: None


class Topics:
    """Has one record to read; the subscriptions' topic got a record that did not come by itself yet."""

    def __init__(self, topic: str) -> None:
        self._messages = [Message(topic)]

    def poll(self, _: float) -> Message | None:
        return self._messages.pop() if self._messages else None

    def consume(self, *_: object) -> list[Message]:
        return []

    def assignment(self) -> list[Any]:
        return []

    def read_all(self) -> list[SubscriptionRecord]:
        return [SUBSCRIPTION]

    def read_some(self) -> list[SubscriptionRecord]:
        return []


class Hearer:
    """Notes what comes, in its order; the record is the end."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ended = asyncio.Event()

    def subscriptions_read(self, records: list[SubscriptionRecord], *, anew: bool) -> None:
        self.heard.append("subscription")

    def received(self, records: list[Any]) -> None:
        self.heard.append("record")
        self.ended.set()


@pytest.mark.parametrize("kind", ["results", "retry", "ordered"])
async def test_what_was_subscribed_is_known_before_a_record_for_it(kind: str) -> None:
    config = Config.model_validate({"auth": {"disabled": True}})
    topics = {"retry": config.deliveries.retry_topic, "ordered": config.deliveries.ordered_topic}
    topic = Topics(topics.get(kind, config.results.topic))
    hearer = Hearer()
    consumer = DeliveryConsumer(config, cast("Any", hearer), Wishes(), CallDeadlines(), lambda _: "")
    consumer._consumer = cast("Any", topic)
    serving = asyncio.get_running_loop().run_in_executor(None, consumer._serve, cast("Any", topic))
    async with asyncio.timeout(10):
        await hearer.ended.wait()
        consumer.stop()
        await serving
    assert hearer.heard == ["subscription", "record"]


async def test_a_reader_that_fails_in_an_unforeseen_way_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Config) -> None:
        raise RuntimeError("nobody expects this")

    died: asyncio.Future[KafkaError] = asyncio.get_running_loop().create_future()
    listener = SimpleNamespace(died=died.set_result)
    monkeypatch.setattr("podpair.gateway.deliveries.consumer.SubscriptionLog", fail)
    config = Config.model_validate({"auth": {"disabled": True}})
    consumer = DeliveryConsumer(config, cast("Any", listener), Wishes(), CallDeadlines(), lambda _: "")
    consumer.start()
    async with asyncio.timeout(10):
        assert "RuntimeError" in (await died).str()
        await consumer.close()
