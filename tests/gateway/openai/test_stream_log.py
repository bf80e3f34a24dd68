"""Streams while the results topic changes, or no broker answers."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from gateway.openai.conftest import BEARER, config_of
from harness.kafka import Broker
from harness.openai_server import OpenAIServer
from harness.pair import Gateway
from harness.topics import TopicAdmin
from harness.waiting import soon

pytestmark = pytest.mark.process


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that no other test needs."""
    running = Broker("256m")
    yield running
    running.child.process.send_signal(signal.SIGCONT)
    running.stop()


async def begin(http: aiohttp.ClientSession, gateway: Gateway, text: str = "one !wait two") -> aiohttp.ClientResponse:
    """Begin a stream; return once its first word is there."""
    body = {"model": "llm", "input": text, "stream": True}
    answer = await http.post(f"{gateway.url}/v1/responses", json=body, headers=BEARER)
    await answer.content.readuntil(b'"delta":"one ')
    return answer


def last_of(events: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(events.strip().split(b"\n\n")[-1].split(b"data: ")[1])
    return found


def quick(config: dict[str, Any]) -> dict[str, Any]:
    config["kafka"]["probe_seconds"] = 0.2
    config["results"]["partitions"] = config["requests"]["partitions"] = 4
    config["inference"]["timeout_seconds"] = 120
    return config


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_stream_fails_when_its_topic_is_made_again(
    broker: Broker, server: OpenAIServer, names: dict[str, Any], start_gateway: Callable[..., Gateway],
    http: aiohttp.ClientSession, partitions: int,
) -> None:  # fmt: skip
    gateway = start_gateway(quick(config_of(broker, server, names)))
    gateway.wait_ready()
    server.open.clear()
    answer = await begin(http, gateway)
    await asyncio.to_thread(TopicAdmin(broker.address).recreate, names["results"]["topic"], partitions)
    last = last_of(await answer.read())
    assert (last["type"], last["response"]["error"]["message"]) == (
        "response.failed",
        "the results topic was made again",
    )
    await soon(lambda: server.left == ["one !wait two"])


async def test_a_stream_goes_on_in_a_topic_that_is_widened(
    broker: Broker, server: OpenAIServer, names: dict[str, Any], start_gateway: Callable[..., Gateway],
    http: aiohttp.ClientSession,
) -> None:  # fmt: skip
    gateway = start_gateway(quick(config_of(broker, server, names)))
    gateway.wait_ready()
    server.open.clear()
    answers = [await begin(http, gateway) for _ in range(4)]
    await asyncio.to_thread(TopicAdmin(broker.address).widen, names["results"]["topic"], 7)
    await soon(lambda: gateway.metric("topic_changes_total", change="widened"))
    server.open.set()
    for answer in answers:
        last = last_of(await answer.read())
        assert (last["type"], last["response"]["output"][0]["content"][0]["text"]) == ("response.completed", "one two ")
        url = f"{gateway.url}/v1/responses/{last['response']['id']}"
        async with http.get(url, headers=BEARER) as found:
            assert await found.json() == last["response"]


@pytest.mark.slow  # longer than a gateway may be silent
async def test_a_stream_outlives_a_broker_that_is_away(
    own_broker: Broker, server: OpenAIServer, names: dict[str, Any], start_gateway: Callable[..., Gateway],
    http: aiohttp.ClientSession,
) -> None:  # fmt: skip
    gateway = start_gateway(quick(config_of(own_broker, server, names)))
    gateway.wait_ready()
    server.open.clear()
    answer = await begin(http, gateway)
    own_broker.child.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(40)  # how long the broker is away
    own_broker.child.process.send_signal(signal.SIGCONT)
    await soon(lambda: gateway.get("/readyz")[0] == 200)
    server.open.set()
    assert last_of(await answer.read())["type"] == "response.completed"


async def test_a_gateway_with_a_stream_stops_while_its_broker_is_away(
    own_broker: Broker, server: OpenAIServer, names: dict[str, Any], start_gateway: Callable[..., Gateway],
    http: aiohttp.ClientSession,
) -> None:  # fmt: skip
    gateway = start_gateway(quick(config_of(own_broker, server, names)))
    gateway.wait_ready()
    server.open.clear()
    answer = await begin(http, gateway)
    own_broker.child.process.send_signal(signal.SIGSTOP)
    await soon(lambda: gateway.get("/readyz")[0] == 503)
    gateway.process.terminate()
    await asyncio.to_thread(gateway.process.wait, 40)
    answer.close()
