"""The requests topic is deleted and made again, or widened, under running gateways."""

import asyncio
from typing import Any

import pytest

import podpair.client
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.topics import TopicAdmin
from harness.waiting import until

ROW = [0.0] * 64


async def ask(session: Any, count: int) -> list[Any]:
    """That many queued requests; each answer, or the error that it ended with."""
    asked = [session.infer("digits", ROW, route="queue") for _ in range(count)]
    return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 120)


def answered(outcomes: list[Any]) -> int:
    return sum(not isinstance(outcome, BaseException) for outcome in outcomes)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("width", [4, 8])
async def test_what_is_queued_in_a_topic_that_was_made_again_is_worked_on(
    start_pair: Any, names: dict[str, Any], broker: Broker, protocol: str, width: int
) -> None:
    """Also where its log is shorter than the old one, and than what the group has committed."""
    gateway: Gateway = start_pair(requests=names["requests"] | {"group_protocol": protocol}, kafka={
        "bootstrap_servers": broker.address, "probe_seconds": 0.2})  # fmt: skip
    topics = TopicAdmin(broker.address)
    async with podpair.client.connect(gateway.ws, token=token("again")) as session:
        assert answered(await ask(session, 200)) == 200
        await asyncio.to_thread(topics.recreate, names["requests"]["topic"], width)
        # Each ends: worked on, or with an error where the topic that took it is gone already.
        await ask(session, 40)
        await asyncio.to_thread(until, lambda: gateway.metric("request_partitions") == width)
        for _ in range(3):
            assert answered(await ask(session, 40)) == 40
    assert gateway.get("/readyz")[0] == 200


async def test_what_went_with_the_topic_ends_with_an_error(
    start_pair: Any, names: dict[str, Any], broker: Broker, start_inference: Any
) -> None:
    model = start_inference()
    gateway: Gateway = start_pair(
        kafka={"bootstrap_servers": broker.address, "probe_seconds": 0.2}, inference={"url": model.url}
    )
    topics = TopicAdmin(broker.address)
    async with podpair.client.connect(gateway.ws, token=token("gone")) as session:
        assert answered(await ask(session, 20)) == 20
        model.kill()  # what is queued from now on waits
        waiting = asyncio.ensure_future(ask(session, 80))
        await asyncio.to_thread(until, lambda: gateway.metric("requests_total", route="queue") == 100)
        await asyncio.to_thread(topics.recreate, names["requests"]["topic"], 4)
        outcomes = await waiting
        assert answered(outcomes) == 0
        assert all("ask again" in str(outcome) for outcome in outcomes), outcomes[:3]
        start_inference(model.port)
        gateway.wait_ready()
        assert answered(await ask(session, 20)) == 20


async def test_partitions_that_were_added_are_worked_on(start_pair: Any, names: dict[str, Any], broker: Broker) -> None:
    gateway: Gateway = start_pair()
    await asyncio.to_thread(TopicAdmin(broker.address).widen, names["requests"]["topic"], 12)
    await asyncio.to_thread(until, lambda: gateway.metric("request_partitions") == 12)
    async with podpair.client.connect(gateway.ws, token=token("wider")) as session:
        assert answered(await ask(session, 100)) == 100
