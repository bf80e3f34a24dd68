"""Channels through the client libraries: over reconnects each publication comes once."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.javascript_folder import user_folder
from harness.machine import require
from harness.pair import Gateway, token
from harness.processes import output_of
from podpair import client

pytestmark = pytest.mark.process
_RULES = [{"subscribe": ["room.*"], "publish": ["room.*"]}]


@pytest.fixture
def gateways(real_gateway: Callable[..., Gateway], names: dict[str, Any]) -> list[Gateway]:
    settings = {"enabled": True, "rules": _RULES, "publishes_per_second": 1000}
    presence = {"enabled": True, "topic": f"{names['results']['topic']}.presence", "rules": [{}]}
    return [real_gateway(channels=settings, presence=presence) for _ in range(2)]


async def test_python(gateways: list[Gateway]) -> None:
    gaps: list[client.Gap] = []
    urls = [gateway.url for gateway in gateways]
    quick = client.Backoff(initial=0.01, maximum=0.05)
    async with (
        client.connect(urls, token=token(sub="a"), on_gap=gaps.append, backoff=quick) as reader,
        client.connect(urls[1], token=token(sub="b")) as writer,
    ):
        with pytest.raises(client.Forbidden):
            await reader.subscribe("drafts")
        room = await reader.subscribe("room.1")
        with pytest.raises(ValueError, match="already"):
            await reader.subscribe("room.1")
        got: list[Any] = []

        async def writing() -> None:
            for n in range(60):
                await writer.publish("room.1", {"n": n})

        written = asyncio.create_task(writing())
        async for publication in room:
            got.append(publication.data["n"])
            if len(got) % 9 == 0:
                reader.cut()
            if len(got) == 60:
                break
        await written
        assert got == list(range(60))
        assert not gaps
        with pytest.raises(client.Forbidden):
            await writer.publish("drafts", 1)
        await room.close()
        again = await reader.subscribe("room.1", publication.position)
        await writer.publish("room.1", {"n": 60})
        assert [publication.data async for publication in _first(again)] == [{"n": 60}]


async def _first(subscription: client.Subscription) -> Any:
    async for publication in subscription:
        yield publication
        return


async def test_a_subscription_that_the_token_loses_ends_with_the_error(gateways: list[Gateway]) -> None:
    """A session that ends does, too: nobody waits for ever."""
    async with client.connect(gateways[0].url, token=token()) as session:
        room = await session.subscribe("room.1")
    assert [publication async for publication in room] == []
    with pytest.raises(client.SessionClosed):
        await session.subscribe("room.2")


async def _present(session: client.Session, subject: str) -> set[str]:
    try:
        return {each.session for each in await session.presence(subject)}
    except client.Overloaded:  # the gateway has just started
        return set()


async def test_who_is_there(gateways: list[Gateway]) -> None:
    async with (
        client.connect(gateways[0].url, token=token("a")) as one,
        client.connect(gateways[1].url, token=token("a")) as other,
    ):
        async with asyncio.timeout(20):
            while await _present(other, "a") != {one.session, other.session}:
                await asyncio.sleep(0.05)
        with pytest.raises(client.Forbidden):
            await one.presence("b")


async def test_javascript(gateways: list[Gateway], tmp_path: Path) -> None:
    (node,) = require("node")
    folder = user_folder(tmp_path, "channels.mjs")
    said = await asyncio.to_thread(output_of, node, "channels.mjs", gateways[0].url, token(), cwd=folder)
    assert json.loads(said) == {
        "got": [{"n": 1}, {"n": 2}],
        "refused": "Forbidden",
        "away": "Lost",
        "position": "string",
        "present": "number",
        "unseen": "Forbidden",
    }
