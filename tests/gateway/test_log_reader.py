"""What a returning session has missed is read in bounded passes, and nothing is missing at their seams."""

import asyncio
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from podpair.common.gateway_config.clients import Auth
from podpair.common.gateway_config.kafka import Kafka
from podpair.common.gateway_config.model import Config
from podpair.gateway.kafka import log_reader as module
from podpair.gateway.kafka.embedded import EmbeddedKafka
from podpair.gateway.kafka.log_reader import LogReader, LogSlice


@pytest.mark.parametrize("bound", ["_PASS_READS", "_PASS_BYTES"])
async def test_a_long_log_is_read_in_bounded_passes(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, bound, 2000)
    broker = EmbeddedKafka()
    config = Config(auth=Auth(disabled=True), kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, embedded=True))
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, "batch.num.messages": 10})
    for number in range(500):
        producer.produce(config.results.topic, b"%04d" % number * 10, key=f"s-{number % 2}", partition=0)
    assert producer.flush(10) == 0
    history = LogReader(config)

    async def read(key: bytes) -> tuple[int, list[Any]]:
        passes, start, found = 0, 0, []
        while start < 500:
            chunk: LogSlice = await history.read(0, key, start, 500)
            passes += 1
            found += [value for _, value, _ in chunk.records]
            start = chunk.end
        return passes, found

    try:
        async with asyncio.timeout(60):
            answers = await asyncio.gather(read(b"s-0"), read(b"s-1"))
    finally:
        await history.close()
        broker.close()
    for session, (passes, found) in enumerate(answers):
        assert found == [b"%04d" % number * 10 for number in range(session, 500, 2)]
        assert passes > 1


async def test_a_client_that_stays_silent_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka's client may tell nothing, not even an error, of a partition of a topic that was made again."""
    made: list[Consumer] = []

    class Silent(Consumer):
        def poll(self, timeout: float = -1) -> None:
            return None

    def consumer(*args: Any, **keywords: Any) -> Consumer:
        made.append((Consumer if made else Silent)(*args, **keywords))
        return made[-1]

    monkeypatch.setattr(module, "Consumer", consumer)
    broker = EmbeddedKafka()
    config = Config(auth=Auth(disabled=True), kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, embedded=True))
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    producer.produce(config.results.topic, b"there", key="s", partition=0)
    assert producer.flush(10) == 0
    history = LogReader(config)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(KafkaException, match="no history of"):
                await history.read(0, b"s", 0, 1)
            chunk = await history.read(0, b"s", 0, 1)
    finally:
        await history.close()
        broker.close()
    assert [value for _, value, _ in chunk.records] == [b"there"]
    assert len(made) == 2
