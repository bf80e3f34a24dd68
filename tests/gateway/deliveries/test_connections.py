"""Nothing is connected to but addresses that may be, whatever a name means, and whatever stands in a URL."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from gateway.core.test_delivery_addresses import REFUSED
from gateway.deliveries.receiver import SECRET, Receiver
from podpair.common.gateway_config.deliveries import Deliveries
from podpair.gateway.core.deliveries.parcels import Parcel
from podpair.gateway.core.deliveries.subscriptions import Subscription
from podpair.gateway.deliveries.attempt import Attempt
from podpair.gateway.deliveries.http_sender import HttpSender

PARCEL = Parcel("msg_1", "sub_1", "ann/s", "push", 0, b'{"data":{"data":1}}')


def subscription(url: str) -> Subscription:
    return Subscription("sub_1", "webhook", url, "session", "ann/s", "ann", 0, 1 << 60, secret=SECRET)


def meaning(*addresses: str) -> Callable[..., list[Any]]:
    """A name server for which every name means these."""

    def lookup(_: str, port: int, family: int, kind: int) -> list[Any]:
        found = []
        for address in addresses:
            version = socket.AF_INET6 if ":" in address else socket.AF_INET
            place = (address, port, 0, 0) if version == socket.AF_INET6 else (address, port)
            found.append((version, kind, 6, "", place))
        return found

    return lookup


@asynccontextmanager
async def sending(lookup: Callable[..., list[Any]], **settings: Any) -> AsyncIterator[Callable[[str], Any]]:
    sender = HttpSender(Deliveries(**{"timeout_seconds": 5} | settings), lookup=lookup)
    try:
        yield lambda url: sender.attempt(subscription(url), PARCEL)
    finally:
        await sender.close()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that sockets were connected to."""
    found: list[Any] = []
    original = asyncio.SelectorEventLoop.sock_connect

    async def noting(self: Any, sock: Any, address: Any) -> None:
        found.append(address)
        await original(self, sock, address)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", noting)
    return found


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


ADDRESSES = [address for address in REFUSED if address not in ("localhost", "", "8.8.8", "010.0.0.1")]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_name_that_means_an_address_that_is_not_public(address: str, connected: list[Any]) -> None:
    async with sending(meaning(address)) as attempt:
        found: Attempt = await attempt("http://receiver.example:9/hook")
    assert (found.outcome, found.reason, found.host_failed, connected) == ("retry", "address", False, [])
    assert address == "" or address not in found.text


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.0.0.1", "[::ffff:127.0.0.1]", "169.254.169.254"])
async def test_an_address_in_a_url(host: str, connected: list[Any]) -> None:
    """For such a host nothing is looked up; settings may have allowed it when it was subscribed."""
    async with sending(meaning()) as attempt:
        assert (await attempt(f"http://{host}:9/hook")).reason == "address"
    assert connected == []


async def test_only_those_addresses_of_a_name_that_may_be(receiver: Receiver, connected: list[Any]) -> None:
    lookup = meaning("10.0.0.1", "::1", "127.0.0.1", "127.0.0.9")
    async with sending(lookup, allowed_networks=["127.0.0.1/32"]) as attempt:
        found = await attempt(f"http://receiver.example:{port_of(receiver.url)}/hook")
    assert (found.outcome, len(receiver.taken)) == ("delivered", 1)
    assert [address[0] for address in connected] == ["127.0.0.1"]


async def test_a_name_that_means_something_else_the_next_time(receiver: Receiver, connected: list[Any]) -> None:
    answers = iter([meaning("127.0.0.1"), meaning("127.0.0.2"), meaning("127.0.0.2")])
    looked_up = 0

    def lookup(*arguments: Any) -> list[Any]:
        nonlocal looked_up
        looked_up += 1
        return next(answers)(*arguments)

    async with sending(lookup, allowed_networks=["127.0.0.1/32"]) as attempt:
        url = f"http://receiver.example:{port_of(receiver.url)}/hook"
        assert (await attempt(url)).outcome == "delivered"
        assert (looked_up, [address[0] for address in connected]) == (
            1,
            ["127.0.0.1"],
        )  # what was judged, and no other look
    async with sending(lookup, allowed_networks=["127.0.0.1/32"]) as attempt:
        assert (await attempt(url)).reason == "address"
    assert (len(receiver.seen), len(connected)) == (1, 1)


async def test_redirects_and_proxies_lead_nowhere(
    receiver: Receiver, bad_receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def redirect(_: Any) -> web.Response:
        return web.Response(status=302, headers={"Location": bad_receiver.url})

    receiver.behave = redirect
    monkeypatch.setenv("HTTP_PROXY", bad_receiver.url)
    monkeypatch.setenv("http_proxy", bad_receiver.url)
    async with sending(socket.getaddrinfo, allowed_networks=["127.0.0.0/8"]) as attempt:
        found = await attempt(receiver.url)
    assert (found.outcome, found.reason, found.text) == ("retry", "status", "status 302")
    assert (len(receiver.seen), len(bad_receiver.seen)) == (1, 0)


async def test_a_name_server_that_hangs_is_given_up() -> None:
    going = threading.Event()

    def lookup(*_: Any) -> list[Any]:
        going.wait(30)
        return []

    async with sending(lookup, timeout_seconds=0.2) as attempt:
        found = await attempt("https://receiver.example/hook")
        assert (found.outcome, found.reason, found.host_failed) == ("retry", "timeout", True)
        going.set()


async def test_an_answer_without_an_end_costs_no_memory_and_no_more_than_its_time() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(bytes(1 << 16))
                sent += 1 << 16
        except ConnectionError:
            return answer

    app = web.Application()
    app.router.add_post("/hook", endless)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with sending(socket.getaddrinfo, allowed_networks=["127.0.0.0/8"]) as attempt:
        found = await attempt(f"http://127.0.0.1:{port}/hook")
    await runner.cleanup()
    assert found.outcome == "delivered"
    assert sent < 64 << 20


@pytest.mark.parametrize(
    ("status", "headers", "outcome", "reason", "retry_after"),
    [
        (200, {}, "delivered", None, None), (204, {}, "delivered", None, None), (400, {}, "retry", "status", None),
        (404, {}, "retry", "status", None), (410, {}, "failed", "gone", None),
        (429, {"Retry-After": "7"}, "retry", "busy", 7.0), (429, {"Retry-After": "999999999"}, "retry", "busy", 86_400.0),
        (429, {"Retry-After": "soon"}, "retry", "busy", None), (500, {"Retry-After": "7"}, "retry", "status", None),
        (503, {"Retry-After": "7"}, "retry", "status", 7.0),
    ],
)  # fmt: skip
async def test_what_an_answer_means(
    receiver: Receiver, status: int, headers: dict[str, str], outcome: str, reason: str, retry_after: float | None
) -> None:
    async def behave(_: Any) -> web.Response:
        return web.Response(status=status, headers=headers)

    receiver.behave = behave
    async with sending(socket.getaddrinfo, allowed_networks=["127.0.0.0/8"]) as attempt:
        found = await attempt(receiver.url)
    assert (found.outcome, found.reason, found.retry_after) == (outcome, reason, retry_after)
    assert found.host_failed == (status >= 500)
