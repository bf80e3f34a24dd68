"""Fixtures of the client's tests: a gateway that does what the test says, and sessions with it."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from podpair import client


def _scripted() -> ModuleType:
    """The module beside this one: pytest's importlib mode puts no folder of tests on the path."""
    name = "podpair_scripted_gateway"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("scripted.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
async def gateway() -> AsyncIterator[Any]:
    async with _scripted().ScriptedGateway() as server:
        yield server


@pytest.fixture
async def second_gateway() -> AsyncIterator[Any]:
    async with _scripted().ScriptedGateway() as server:
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
