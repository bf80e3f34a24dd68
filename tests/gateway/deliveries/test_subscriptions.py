"""Who may subscribe to what, and what of it is shown."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway.conftest import Connect
from gateway.deliveries.conftest import Publish, subscribe
from gateway.deliveries.receiver import SECRET, Receiver
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.processes import BIN, completed, output_of
from harness.waiting import soon
from podpair.common.gateway_config.environment import merged

Start = Callable[..., Gateway]
URL = "http://127.0.0.1:9/hook?key=hidden-value"


async def ask(
    http: aiohttp.ClientSession, gateway: Gateway, method: str = "POST", path: str = "", sub: str = "ann",
    sid: str | None = "s", claims: dict[str, Any] | None = None, **members: Any,
) -> tuple[int, Any]:  # fmt: skip
    headers = {"Authorization": f"Bearer {token(sub, sid=sid, **(claims or {}))}"}
    body = {"url": URL, "secret": SECRET} | members if method == "POST" else None
    async with http.request(method, f"{gateway.url}/v1/subscriptions{path}", json=body, headers=headers) as answer:
        return answer.status, await answer.json() if answer.status != 204 else None


async def test_a_subject_sees_and_removes_its_own_only(start: Start, http: aiohttp.ClientSession) -> None:
    gateway = start()
    status, made = await ask(http, gateway, events=["result"], ordered=True)
    assert status == 201
    assert {name: made[name] for name in ("kind", "scope", "events", "ordered", "url")} == {
        "kind": "webhook", "scope": "session", "events": ["result"], "ordered": True, "url": "http://127.0.0.1:9/hook",
    }  # fmt: skip
    assert (await ask(http, gateway, "GET"))[1] == {"subscriptions": [made]}
    assert (await ask(http, gateway, "GET", sub="bob"))[1] == {"subscriptions": []}
    assert (await ask(http, gateway, "DELETE", f"/{made['id']}", sub="bob"))[0] == 404
    assert (await ask(http, gateway, "DELETE", f"/{made['id']}"))[0] == 204
    assert (await ask(http, gateway, "DELETE", f"/{made['id']}"))[0] == 404
    assert (await ask(http, gateway, "GET"))[1] == {"subscriptions": []}


async def test_secrets_are_nowhere(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, publish: Publish
) -> None:
    gateway = start(log={"level": "debug"})
    _, made = await ask(http, gateway)
    status, refused = await ask(http, gateway, url="https://user:hidden-value@example.com/", secret=SECRET)
    assert status == 400
    publish("ann/s", b"1")
    await soon(lambda: gateway.metric("delivery_retries_total") > 0)
    answers = json.dumps([made, refused, (await ask(http, gateway, "GET"))[1]])
    said = answers + gateway.get("/metrics")[1] + "\n".join(gateway.lines)
    for secret in (SECRET, SECRET.removeprefix("whsec_"), "hidden-value"):
        assert secret not in said


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"url": "http://10.0.0.1/"}, "not a public address"), ({"url": "ftp://example.com"}, "https://"),
        ({"secret": ""}, "whsec_"), ({"secret": "whsec_c2hvcnQ="}, "24 to 64"), ({"secret": "whsec_" + "_" * 40}, "base64"),
        ({"events": []}, "at least one"), ({"events": ["partial"]}, "partial"), ({"kind": "fax"}, "fax"), ({"more": 1}, "more"),
        ({"kind": "slack"}, "for kind webhook"), ({"blocks": [{"type": "divider"}]}, "for kind slack"),
        ({"ttl_seconds": 1}, "ttl_seconds"),
        ({"kind": "slack", "secret": "", "url": "http://example.com/"}, "the host of Slack"),
        ({"kind": "slack", "secret": "", "blocks": [{"type": "image"}]}, "blocks[0]"), ({"models": [""]}, "models"),
        ({"kind": "email", "url": "", "secret": ""}, "deliveries.email.host"),
        ({"kind": "web_push", "secret": ""}, "private_key_file"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told(
    shared: Gateway, http: aiohttp.ClientSession, members: dict[str, Any], why: str
) -> None:
    status, answer = await ask(http, shared, **members)
    assert (status, answer["error"]["code"]) == (400, "invalid")
    assert why in answer["error"]["message"]


@pytest.fixture(scope="module")
def shared(start_before_fake: Callable[..., Gateway]) -> Gateway:
    """On embedded Kafka, with permissions by claims."""
    rules = [
        {"claim": "roles", "value": "chat", "kinds": ["slack"]},
        {"claim": "tenant", "subscriptions": 2},
        {"claim": "roles"},
    ]
    own = {
        "enabled": True,
        "allow_http": True,
        "ports": [],
        "allowed_networks": ["127.0.0.1/32"],
        "slack_hosts": ["127.0.0.1"],
    }
    return start_before_fake(deliveries={"rules": [*rules, {"claim": "sid"}], **own})


async def test_permissions_come_from_claims(shared: Gateway, http: aiohttp.ClientSession) -> None:
    async def status(**how: Any) -> int:
        return (await ask(http, shared, **how))[0]

    assert await status(sub="c1", sid=None, scope="subject") == 403
    assert await status(sub="c2", claims={"roles": ["chat", "x"]}) == 403
    assert await status(sub="c2", claims={"roles": ["chat", "x"]}, kind="slack", secret="") == 201
    assert [await status(sub="c3", claims={"tenant": "t"}) for _ in range(3)] == [201, 201, 429]
    assert await status(sub="c4", claims={"roles": "any"}) == 201


async def test_a_session_is_named_by_a_claim_or_its_resume_token(
    shared: Gateway, http: aiohttp.ClientSession, connect: Connect
) -> None:
    claims = {"roles": "any"}
    status, answer = await ask(http, shared, sub="d", sid=None, claims=claims)
    assert (status, "missing session" in answer["error"]["message"]) == (400, True)
    client = await connect(shared, sub="d")
    resume = client.welcome["resume"]
    assert (await ask(http, shared, path=f"?resume={resume}", sub="d", sid=None, claims=claims))[0] == 201
    assert (await ask(http, shared, path=f"?resume={resume}", sub="e", sid=None, claims=claims))[0] == 401
    assert (await ask(http, shared, sub="d", sid=None, claims=claims, scope="subject"))[0] == 201


async def test_where_nothing_is_delivered_there_is_no_such_path(
    before_model: Gateway, http: aiohttp.ClientSession
) -> None:
    assert (await ask(http, before_model))[0] == 404


async def test_operators_subscribe_by_the_command(
    start: Start, broker: Broker, names: dict[str, Any], delivery_config: dict[str, Any], receiver: Receiver, publish: Publish,
    tmp_path: Path, http: aiohttp.ClientSession,
) -> None:  # fmt: skip
    gateway = start()
    config, url, secret = tmp_path / "gateway.yaml", tmp_path / "url", tmp_path / "secret"
    own = {"kafka": {"bootstrap_servers": broker.address}, "auth": {"disabled": True}}
    config.write_text(yaml.safe_dump(merged(own | names, delivery_config)))
    url.write_text(receiver.url + "\n")
    secret.write_text(SECRET + "\n")
    command = [BIN / "podpair-gateway", "subscriptions"]
    options = ["--config", config, "--user", "ann", "--session", "s", "--url-file", url, "--secret-file", secret]
    made = json.loads(output_of(*command, "add", *options, "--event", "push"))
    assert (made["target"], made["events"], made["owner"]) == ("ann/s", ["push"], "")
    await soon(lambda: gateway.metric("subscriptions") == 1)
    assert json.loads(output_of(*command, "list", "--config", config)) == made
    assert (await ask(http, gateway, "GET"))[1] == {"subscriptions": []}
    publish("ann/s", b"1")
    await receiver.has(1)
    assert output_of(*command, "remove", "--config", config, made["id"]) == ""
    await soon(lambda: gateway.metric("subscriptions") == 0)
    assert output_of(*command, "list", "--config", config) == ""
    refused: subprocess.CompletedProcess[str] = completed(*command, "add", "--config", config, "--url-file", url)
    assert (refused.returncode, "--session or --user" in refused.stderr) == (2, True)


async def test_subscriptions_that_have_ended_are_for_nothing(
    start: Start, http: aiohttp.ClientSession, receiver: Receiver, bad_receiver: Receiver, publish: Publish
) -> None:
    gateway, other = start(deliveries={"max_ttl_seconds": 1}), start()
    made = await subscribe(http, gateway, bad_receiver)
    assert made["expires_at"] - made["created_at"] == 1000
    await soon(lambda: gateway.metric("subscriptions") == 1)
    await soon(lambda: ended(http, gateway))
    publish("ann/s", b"1")
    await subscribe(http, other, receiver)  # one that lasts, however long its delivery takes
    publish("ann/s", b"2")
    await receiver.has(1)
    assert bad_receiver.seen == []


async def ended(http: aiohttp.ClientSession, gateway: Gateway) -> bool:
    return (await ask(http, gateway, "GET"))[1] == {"subscriptions": []}
