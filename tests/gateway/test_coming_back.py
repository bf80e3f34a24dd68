"""What a client needs to come back with: the resume token and a position, or, where its token names the session, a position."""

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Client, Connect, kafka_of, resuming
from harness.pair import Gateway, token
from harness.waiting import soon
from podpair.gateway.core.partitions import home_partition


async def left(pair: Gateway, client: Client, push: Any, *values: bytes) -> str:
    """The client has seen one push; it leaves, and others are pushed. Returns its last position."""
    push(kafka_of(pair), client.welcome["session"], b'"seen"')
    position: str = (await client.event("push"))["position"]
    await client.socket.close()
    await soon(lambda: pair.metric("sessions") == 0)
    push(kafka_of(pair), client.welcome["session"], *values)
    return position


async def test_a_position_alone_goes_on_with_a_session_that_the_token_names(
    pair: Gateway, connect: Connect, push: Any
) -> None:
    """A page that was reloaded; also one that kept the position of a welcome only, or comes through HTTP."""
    client = await connect(pair, sid="reloaded")
    position = await left(pair, client, push, b"1", b"2")
    back = await connect(pair, sid="reloaded", params={"position": position})
    assert (back.welcome["position"], back.welcome["resumed"]) == (position, False)
    assert [(await back.event("push"))["data"] for _ in range(2)] == [1, 2]
    await back.socket.close()
    again = await connect(pair, sid="reloaded", params={"position": client.welcome["position"]})
    assert [(await again.event("push"))["data"] for _ in range(3)] == ["seen", 1, 2]
    await again.lives()
    assert not [event for event in (*back.skipped, *again.skipped) if event["type"] == "gap"]


async def test_the_same_over_server_sent_events(
    pair: Gateway, connect: Connect, push: Any, http: aiohttp.ClientSession
) -> None:
    client = await connect(pair, sid="streamed")
    position = await left(pair, client, push, b"1")
    headers = {"Authorization": f"Bearer {token(sid='streamed')}", "Last-Event-ID": position}
    async with http.get(pair.url + "/v1/events", headers=headers) as stream:
        found: list[Any] = []
        while len(found) < 2:
            line = (await stream.content.readline()).decode()
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
    assert [event["type"] for event in found] == ["welcome", "push"]
    assert found[1]["data"] == 1


async def test_a_position_of_a_session_that_is_not_named_needs_its_resume_token(
    pair: Gateway, connect: Connect, push: Any
) -> None:
    """Nobody knows whose it is: the client is told that it has a new session, whatever partition that has."""
    client = await connect(pair)
    position = await left(pair, client, push, b"1")
    home = home_partition(client.welcome["session"], 4)
    homes = set()
    while homes < {True, False}:
        stranger = await connect(pair, params={"position": position})
        homes.add(home_partition(stranger.welcome["session"], 4) == home)
        gap = await stranger.event("gap")
        assert (gap["from"], gap["reason"]) == (position, "session")
        assert not [event for event in stranger.skipped if event["type"] == "push"]
        push(kafka_of(pair), stranger.welcome["session"], b'"new"')
        assert (await stranger.event("push"))["data"] == "new"
        await stranger.socket.close()
    back = await connect(pair, params=resuming(client, position))
    assert (await back.event("push"))["data"] == 1
    assert back.welcome["resumed"]


@pytest.mark.parametrize("position", ["other.0.5", "{epoch}.{other}.5"])
async def test_a_position_elsewhere_is_a_gap(
    pair: Gateway, connect: Connect, position: str, push: Callable[..., None]
) -> None:
    """Of another topic, or in a partition that is not the session's home."""
    client = await connect(pair, sid="elsewhere")
    epoch, partition, _ = client.welcome["position"].split(".")
    position = position.format(epoch=epoch, other=(int(partition) + 1) % 4)
    await client.socket.close()
    back = await connect(pair, sid="elsewhere", params={"position": position})
    gap = await back.event("gap")
    assert (gap["from"], gap["reason"]) == (position, "epoch")
    await back.lives()
