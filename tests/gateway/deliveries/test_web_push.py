"""Notifications by a browser's push service."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.javascript_folder import user_folder
from gateway.deliveries.conftest import Publish
from gateway.deliveries.push_service import PushService
from gateway.deliveries.test_subscriptions import ask
from harness.javascript import node
from harness.pair import Gateway, token
from harness.processes import output_of
from harness.waiting import soon

Start = Callable[..., Gateway]


@pytest.fixture
async def service() -> AsyncIterator[PushService]:
    made = PushService()
    runner = await made.start()
    yield made
    await runner.cleanup()


@pytest.fixture
def pushing(start: Start, tmp_path: Path) -> Callable[..., Gateway]:
    """Starts a gateway that has a key."""
    file = tmp_path / "vapid.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    web_push = {"private_key_file": str(file), "contact": "mailto:ops@example.com", "ttl_seconds": 60}
    return lambda **config: start(deliveries={"web_push": web_push} | config)


async def begin(http: aiohttp.ClientSession, gateway: Gateway, service: PushService, name: str, **members: Any) -> Any:
    """Subscribe as a page does it: ask for the key, subscribe at the push service, tell the gateway."""
    _, listed = await ask(http, gateway, "GET")
    service.public_key = listed["web_push_key"]
    status, made = await ask(http, gateway, **service.subscribe(name), **members)
    assert status == 201, made
    return made


async def test_a_browser_is_notified_and_only_it_reads_what_of(
    pushing: Start, http: aiohttp.ClientSession, service: PushService, publish: Publish
) -> None:
    gateway = pushing()
    made = await begin(http, gateway, service, "a", push={"ttl_seconds": 5, "urgency": "high", "topic": "news"})
    await begin(http, gateway, service, "b")
    keys = service.browsers["a"].keys
    for hidden in (service.origin, keys.auth, keys.p256dh):
        assert hidden not in json.dumps(made)
    publish("ann/s", b'{"x": 1}', b'"' + b"x" * 5000 + b'"')
    await soon(lambda: gateway.metric("deliveries_total", kind="web_push", outcome="delivered") == 4)
    assert service.refusals == []
    a, b = service.browsers["a"], service.browsers["b"]
    for browser in (a, b):
        by_length = sorted(
            (json.loads(text) for text in browser.messages), key=lambda event: event.get("truncated", False)
        )
        assert by_length[0]["data"]["data"] == {"x": 1}
        assert (by_length[1]["session"], by_length[1]["truncated"]) == ("ann/s", True)
    assert [a.headers[0][name] for name in ("TTL", "Urgency", "Topic")] == ["5", "high", "news"]
    assert (b.headers[0]["TTL"], b.headers[0]["Urgency"]) == ("60", "normal")
    assert len({headers["Topic"] for headers in b.headers}) == 2


@pytest.mark.parametrize("status", [404, 410])
async def test_a_browser_that_has_unsubscribed_ends_the_subscription(
    pushing: Start, http: aiohttp.ClientSession, service: PushService, publish: Publish, status: int
) -> None:
    gateway = pushing()
    await begin(http, gateway, service, "a")
    await soon(lambda: gateway.metric("subscriptions") == 1)
    service.answers = [status]
    publish("ann/s", b"1")
    await soon(lambda: gateway.metric("subscriptions") == 0)
    publish("ann/s", b"2")
    await begin(http, gateway, service, "b")
    publish("ann/s", b"3")
    await soon(lambda: len(service.browsers["b"].messages) == 1)
    assert service.attempts == 2


async def test_what_fails_is_tried_again(
    pushing: Start, http: aiohttp.ClientSession, service: PushService, publish: Publish
) -> None:
    gateway = pushing()
    await begin(http, gateway, service, "a")
    service.answers = [429, 503, 403]
    publish("ann/s", b"1")
    await soon(lambda: len(service.browsers["a"].messages) == 1)
    assert service.attempts == 4


async def test_what_a_push_service_refuses_for_good_is_given_up(
    pushing: Start, http: aiohttp.ClientSession, service: PushService, publish: Publish
) -> None:
    gateway = pushing()
    await begin(http, gateway, service, "a")
    service.answers = [413]
    publish("ann/s", b"1")
    await soon(lambda: gateway.metric("deliveries_total", kind="web_push", outcome="failed") == 1)
    assert (service.attempts, gateway.metric("subscriptions")) == (1, 1)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"url": "http://10.0.0.1/push"}, "not a public address"), ({"keys": None}, "p256dh and auth"),
        ({"keys": {"p256dh": "AAAA", "auth": "AAAA"}}, "p256dh"), ({"push": {"topic": "a b"}}, "push.topic"),
        ({"push": {"urgency": "now"}}, "urgency"), ({"kind": "webhook"}, "keys is for kind web_push"),
    ],
)  # fmt: skip
async def test_subscriptions_that_are_none(
    pushing: Start, http: aiohttp.ClientSession, service: PushService, members: dict[str, Any], why: str
) -> None:
    gateway = pushing()
    status, answer = await ask(http, gateway, **service.subscribe("a") | members)
    assert (status, answer["error"]["code"]) == (400, "invalid")
    assert why in answer["error"]["message"]


@pytest.mark.process
async def test_a_page_subscribes_with_the_javascript_of_the_gateway(
    pushing: Start, service: PushService, publish: Publish, tmp_path: Path
) -> None:
    gateway = pushing()
    members = service.subscribe("a")

    folder = user_folder(tmp_path, "push.mjs")

    async def run(**what: Any) -> Any:
        what = {"url": members["url"], "keys": members["keys"], "token": token("ann", sid="s")} | what
        said = await asyncio.to_thread(
            output_of, node(), "push.mjs", f"{gateway.url}/v1/ws", json.dumps(what), cwd=folder, env={}
        )
        return json.loads(said)

    done = await run(old=True, options={"when": "absent"})
    first, dropped, second = done["asked"]
    assert (first, dropped) == (second, "unsubscribe")
    service.public_key = first["applicationServerKey"]
    assert first["userVisibleOnly"]
    assert (done["made"]["kind"], done["made"]["when"]) == ("web_push", "absent")
    publish("ann/s", b"1")
    await soon(lambda: len(service.browsers["a"].messages) == 1)
    assert service.refusals == []
    assert (await run(denied=True))["error"] == "Forbidden"
    refused = await run(options={"push": {"topic": "a b"}})
    assert (refused["error"], "push.topic" in refused["message"]) == ("Invalid", True)
