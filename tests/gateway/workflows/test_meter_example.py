"""The example of a workflow at a real container: a fan-out over a model, steps that have an effect, and a person's approval."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.pair import Gateway, Inference

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[3] / "examples"
SEVEN = json.loads((EXAMPLES / "digits/request.json").read_text())["inputs"][0]["data"]
DIGIT = SEVEN[0] if isinstance(SEVEN[0], list) else SEVEN[:64]


@pytest.fixture
def readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database that the steps write to."""
    monkeypatch.setenv("METER_DATABASE", str(tmp_path / "meters.sqlite3"))
    return tmp_path / "meters.sqlite3"


@pytest.fixture(params=["rest", "grpc"])
def url(request: pytest.FixtureRequest, readings: Path) -> Iterator[str]:
    container = Inference(models=EXAMPLES / "workflow/models")
    yield container.url if request.param == "rest" else container.grpc
    container.stop()


def rows(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT meter, reading FROM readings").fetchall()


async def outcome(client: Any, events: list[Any]) -> Any:
    while (event := await client.next())["type"] not in ("result", "error"):
        events += event["data"] if event["type"] == "partial" else []
        if events and events[-1]["event"] == "waiting":
            return event
    return event


async def test_the_example(start: Callable[..., Gateway], url: str, readings: Path, connect: Any) -> None:
    client = await connect(start(inference={"url": url}), sid="s-1")
    request = {"meter": "m-1", "digits": [DIGIT] * 4}
    await client.infer("r-1", model="meter", data=request)
    events: list[Any] = []
    result = await outcome(client, events)
    assert result["type"] == "result", result
    reading = result["data"]["reading"]
    assert result["data"]["text"] == f"meter m-1: {reading}, read by the model"
    assert ("review", "skipped") in [(event["stage"], event["event"]) for event in events]
    assert {"booking": reading} in [event.get("data") for event in events if event["event"] == "progress"]
    assert rows(readings) == [("m-1", reading)]
    # With a doubt that nothing can remove, a person is asked.
    await client.infer("r-2", model="meter", data=request | {"meter": "m-2"}, parameters={"doubt_below": 1.1})
    events.clear()
    assert (await outcome(client, events))["type"] == "partial"
    await client.send({"type": "signal", "id": "r-2", "name": "review", "data": {"reading": "0421"}})
    events.clear()
    result = await outcome(client, events)
    assert result["data"]["text"] == "meter m-2: 0421, read by a person"
    assert rows(readings) == [("m-1", reading), ("m-2", "0421")]
