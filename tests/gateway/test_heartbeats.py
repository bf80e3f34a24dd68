"""A client that is silent is pinged; one that does not answer is gone, though its wire does not say so."""

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from harness.pair import Gateway, Inference, token
from harness.waiting import until

EVERY = 2.0  # seconds; a busy machine may take half of it to answer a ping


@pytest.fixture
def gateway(inference: Inference, start_gateway: Callable[..., Gateway]) -> Gateway:
    gateway = start_gateway(
        {
            "kafka": {"embedded": True},
            "inference": {"url": inference.url},
            "sessions": {"heartbeat_seconds": EVERY},
        }
    )
    gateway.wait_ready()
    return gateway


def open_socket(gateway: Gateway, http: aiohttp.ClientSession) -> Any:
    headers = {"Authorization": f"Bearer {token()}"}
    return http.ws_connect(gateway.ws, headers=headers, autoping=False)


async def test_who_answers_its_pings_stays(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    async with open_socket(gateway, http) as socket:
        assert (await socket.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT
        for _ in range(3):  # longer than a client lives that does not
            assert (await socket.receive(timeout=60)).type is aiohttp.WSMsgType.PING
            await socket.pong()
        await socket.ping(b"how are you")
        answer = await socket.receive(timeout=60)
        assert (answer.type, bytes(answer.data)) == (aiohttp.WSMsgType.PONG, b"how are you")


async def test_who_does_not_is_cut_off(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    async with open_socket(gateway, http) as socket:
        assert (await socket.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT
        assert (await socket.receive(timeout=60)).type is aiohttp.WSMsgType.PING
        assert (await socket.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    until(lambda: gateway.metric("sessions") == 0)
    until(lambda: gateway.metric("sessions_closed_total", reason="client") == 1)
