"""The gateway sees what becomes of its topics: their ids and widths are asked for all the time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.conftest import PATIENCE
from harness.kafka import Broker
from harness.topics import TopicAdmin
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.topic_state import TopicState, change_of
from podpair.gateway.kafka.embedded import EmbeddedKafka
from podpair.gateway.kafka.topic_watch import TopicWatch
from podpair.gateway.kafka.topics import Topics, ensure_topics
from podpair.gateway.metrics import Metrics


class Watched:
    """A watch, and what it has told."""

    def __init__(self, config: Config, topics: Topics) -> None:
        self.told: asyncio.Queue[tuple[str, TopicState | None, TopicState | None]] = asyncio.Queue()
        self.watch = TopicWatch(config, Metrics(), topics, lambda *change: self.told.put_nowait(change))
        self.requests, self.results = config.requests.topic, config.results.topic

    async def change(self) -> tuple[str, str | None]:
        """The next change: of which topic, and what kind."""
        async with asyncio.timeout(PATIENCE):
            name, old, new = await self.told.get()
        assert self.watch.state[name] == new
        return name, change_of(old, new)


def config_of(names: dict[str, Any], **kafka: Any) -> Config:
    requests = {"topic": names["requests"]["topic"], "dead_letters": False, "partitions": 4}
    results = {"topic": names["results"]["topic"], "partitions": 4}
    return Config.model_validate({"auth": {"disabled": True}, "kafka": kafka, "requests": requests, "results": results})


@pytest.fixture
async def watched(broker: Broker, names: dict[str, Any]) -> AsyncIterator[Watched]:
    """The watch of topics that are there; it asks by itself every 0.2 s."""
    config = config_of(names, bootstrap_servers=broker.address, probe_seconds=0.2)
    made = Watched(config, await asyncio.to_thread(ensure_topics, config))
    yield made
    await made.watch.close()


async def test_changes_of_topics_are_seen(watched: Watched, broker: Broker) -> None:
    topics = TopicAdmin(broker.address)
    await asyncio.to_thread(topics.recreate, watched.results, 4)
    assert await watched.change() == (watched.results, "recreated")
    await asyncio.to_thread(topics.widen, watched.requests, 6)
    assert await watched.change() == (watched.requests, "widened")
    await asyncio.to_thread(topics.delete, watched.requests)
    assert await watched.change() == (watched.requests, "deleted")
    await asyncio.to_thread(topics.create, watched.requests, 2)
    assert await watched.change() == (watched.requests, "created")
    assert watched.watch.broker_error is None
    assert watched.told.empty()


async def test_it_asks_at_once_where_somebody_has_reason_to(broker: Broker, names: dict[str, Any]) -> None:
    config = config_of(names, bootstrap_servers=broker.address, probe_seconds=3600)
    watched = Watched(config, await asyncio.to_thread(ensure_topics, config))
    try:
        before = watched.watch.state[watched.results]
        assert await watched.watch.refresh()
        assert watched.told.empty()
        await asyncio.to_thread(TopicAdmin(broker.address).recreate, watched.results, 2)
        async with asyncio.timeout(PATIENCE):
            assert await watched.watch.refresh()
        name, old, new = watched.told.get_nowait()
        assert (name, old) == (watched.results, before)
        assert new is not None
        assert new.partitions == 2
    finally:
        await watched.watch.close()


async def test_a_broker_without_topic_ids_is_watched_by_width(names: dict[str, Any]) -> None:
    """The embedded one, for instance: nothing of it looks like a change."""
    broker = EmbeddedKafka()
    config = config_of(names, bootstrap_servers=broker.bootstrap_servers, embedded=True, probe_seconds=3600)
    watched = Watched(config, await asyncio.to_thread(ensure_topics, config))
    try:
        async with asyncio.timeout(PATIENCE):
            assert await watched.watch.refresh()
        assert watched.watch.state == dict.fromkeys((watched.requests, watched.results), TopicState(None, 4))
        assert watched.told.empty()
    finally:
        await watched.watch.close()
        broker.close()
