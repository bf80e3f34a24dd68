"""A workflow of models, one after the other."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.fake_workflows import FakeWorkflows
from harness.pair import Gateway

pytestmark = pytest.mark.process

CHAIN = {
    "stages": {
        "first": {"model": "double", "input": "request"},
        "second": {"model": "double", "input": "first.y"},
    },
    "output": "{once: first.y, twice: second.y}",
}


async def test_a_chain(start: Callable[..., Gateway], server: FakeWorkflows, connect: Any) -> None:
    server.declare("flow", CHAIN)
    client = await connect(start(), sid="s-1")
    await client.infer("r-1", model="flow", data=[1, 2], route="queue")
    events: list[dict[str, Any]] = []
    while (event := await client.next())["type"] != "result":
        assert event["type"] in ("accepted", "partial", "welcome"), event
        if event["type"] == "partial":
            events += event["data"]
    assert event["data"] == {"once": [2, 4], "twice": [4, 8]}
    told = [(event["stage"], event["event"]) for event in events]
    assert told == [("first", "started"), ("first", "finished"), ("second", "started"), ("second", "finished")]
