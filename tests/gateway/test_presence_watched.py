"""Who watches others does so for as long as its connection lasts, and its token allows it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.conftest import Client, Connect
from harness.pair import Gateway, token
from harness.waiting import until

pytestmark = pytest.mark.process


@pytest.fixture
def gateway(real_gateway: Callable[..., Gateway], names: dict[str, Any]) -> Gateway:
    rules = [{}, {"claim": "role", "value": "admin", "subjects": ["*"]}]
    topic = names["results"]["topic"].replace("results", "presence")
    made = real_gateway(
        presence={"enabled": True, "topic": topic, "rules": rules, "watches": 1, "coalesce_seconds": 0.1}
    )
    until(lambda: made.metric("presence_ready") == 1)
    return made


async def _watch(client: Client, subject: str) -> dict[str, Any]:
    await client.send({"type": "presence", "id": subject, "subject": subject, "watch": True})
    return await client.event("presence", id=subject)


async def test_a_newer_token_that_may_not_see_a_subject_ends_its_watch(gateway: Gateway, connect: Connect) -> None:
    """Else who has lost a role would go on to hear of everybody."""
    watcher = await connect(gateway, sub="root", role="admin")
    other = await connect(gateway, sub="boss", role="admin")
    await _watch(watcher, "alice")
    await _watch(other, "alice")
    await watcher.send({"type": "refresh", "token": token(sub="root")})
    await watcher.event("welcome")
    await connect(gateway, sub="alice", sid="a")
    await other.event("join", subject="alice")
    await watcher.lives()
    assert not [event for event in watcher.skipped if event["type"] == "join"]
    assert await _watch(watcher, "root")  # and it takes no room


async def test_a_connection_that_replaces_another_watches_nothing_yet(gateway: Gateway, connect: Connect) -> None:
    """A client that reconnects before the gateway has noticed may watch as many as any."""
    before = await connect(gateway, sub="root", sid="a", role="admin")
    await _watch(before, "alice")
    after = await connect(gateway, sub="root", sid="a", role="admin")
    assert await before.closed() == 4009
    async with asyncio.timeout(20):
        await _watch(after, "bob")
