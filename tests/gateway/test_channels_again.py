"""Channels that a client leaves and subscribes to again, and those that it has without asking."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from harness.pair import Gateway, token
from podpair import client

pytestmark = pytest.mark.process
_RULES = [
    {"subscribe": ["room.*", "quiet"], "publish": ["room.*", "all"]},
    {"claim": "role", "value": "editor", "publish": ["quiet"]},
]


@pytest.fixture
def gateway(real_gateway: Callable[..., Gateway]) -> Gateway:
    return real_gateway(channels={"enabled": True, "rules": _RULES, "automatic": ["all"], "publishes_per_second": 1000})


async def _next(subscription: client.Subscription, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(20):
        async for publication in subscription:
            found.append(publication.data)
            if len(found) == count:
                break
    return found


async def test_a_channel_that_is_left_and_subscribed_to_again(gateway: Gateway) -> None:
    """The word about the former subscription is not taken for one about the new: it goes on over reconnects."""
    quick = client.Backoff(initial=0.01, maximum=0.05)
    async with (
        client.connect(gateway.url, token=token(sub="a"), backoff=quick) as reader,
        client.connect(gateway.url, token=token(sub="b")) as writer,
    ):
        room = await reader.subscribe("room.1")
        await room.close()
        room = await reader.subscribe("room.1")
        await writer.publish("room.1", 1)
        assert await _next(room, 1) == [1]
        reader.cut()
        await writer.publish("room.1", 2)
        assert await _next(room, 1) == [2]


async def test_an_error_of_a_publication_that_nobody_waits_for(gateway: Gateway) -> None:
    """It ends nothing, least of all the subscription to that channel."""
    async with (
        client.connect(gateway.url, token=token(sub="a")) as reader,
        client.connect(gateway.url, token=token(sub="b", role="editor")) as writer,
    ):
        quiet = await reader.subscribe("quiet")
        published = asyncio.create_task(reader.publish("quiet", 1))
        await asyncio.sleep(0)
        published.cancel()
        with pytest.raises(client.Forbidden):  # so the answer to the first has come
            await reader.publish("quiet", 2)
        await writer.publish("quiet", 3)
        assert await _next(quiet, 1) == [3]


@pytest.mark.parametrize("name", ["", "x" * 201, "x" * 300])
async def test_names_that_the_gateway_does_not_read(gateway: Gateway, name: str) -> None:
    async with asyncio.timeout(20), client.connect(gateway.url, token=token()) as session:
        with pytest.raises(client.Invalid):
            await session.subscribe(name)
        with pytest.raises(client.Invalid):
            await session.publish(name, 1)


async def test_an_automatic_channel_that_is_subscribed_to_from_a_position(gateway: Gateway) -> None:
    """Each publication comes once and in order, also over reconnects that subscribe to it twice."""
    quick = client.Backoff(initial=0.01, maximum=0.05)
    async with (
        client.connect(gateway.url, token=token(sub="a"), backoff=quick) as reader,
        client.connect(gateway.url, token=token(sub="b")) as writer,
    ):
        everybody = await reader.subscribe("all")
        got: list[Any] = []

        async def write() -> None:
            for n in range(400):
                await writer.publish("all", n)

        written = asyncio.create_task(write())
        async with asyncio.timeout(40):
            async for publication in everybody:
                got.append(publication.data)
                if len(got) % 20 == 0:
                    reader.cut()
                if 399 in got:
                    break
        await written
        assert got == list(range(400))
