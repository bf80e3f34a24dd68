"""Questions to the example over a WebSocket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from harness.pair import token
from podpair import client
from rag.conftest import Application


@asynccontextmanager
async def session(application: Application) -> AsyncIterator[client.Session]:
    async with client.connect(application.gateway.url, token=token("reader")) as connected:
        yield connected


def passages_of(data: dict[str, str]) -> list[dict[str, Any]]:
    """Return the passages of an answer, or of some of its chunks."""
    return [json.loads(line) for line in data["passages"].splitlines()]


async def passages(connected: client.Session, question: str, **options: Any) -> list[dict[str, Any]]:
    """Return the passages that are found for a question."""
    result = await connected.infer("answer", question, **options)
    assert isinstance(result.data, dict)
    return passages_of(result.data)
