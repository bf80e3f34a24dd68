"""Fixtures of the client's tests: a gateway that does what the test says, and sessions with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from client.scripted import ScriptedGateway
from podpair import client


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway() as server:
        yield server


@pytest.fixture
async def second_gateway() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway() as server:
        yield server


@pytest.fixture
async def open_session(gateway: Any) -> AsyncIterator[Callable[..., Awaitable[tuple[Any, Any]]]]:
    """Opens a session; gives it and the gateway's end of its first connection. It reconnects without waiting."""
    async with AsyncExitStack() as stack:

        async def begin(*, welcome: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
            options = {"url": gateway.url, "token": "jwt", "backoff": client.Backoff(rng=lambda: 0.0), **options}
            entering = asyncio.ensure_future(stack.enter_async_context(client.connect(**options)))
            connection = await gateway.welcomed(**(welcome or {}))
            return await entering, connection

        yield begin
