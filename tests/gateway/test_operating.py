"""What who runs a gateway sees: readiness, metrics, log records, and errors that name what is missing."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from gateway.conftest import Connect
from harness.kafka import Broker
from harness.pair import Gateway, Inference, token
from harness.processes import free_port
from harness.serving import serving
from harness.waiting import soon, until

NAMES = {
    "sessions", "slow_clients", "sessions_opened", "sessions_closed", "rejected", "requests", "spilled", "requests_completed",
    "direct_in_flight", "request_duration_seconds", "frames_invalid", "gaps", "resumes", "inference_ready",
    "results_records_read", "results_bytes_read", "results_records_delivered", "results_duplicates_dropped",
    "home_partitions", "request_partitions", "requests_paused", "queue_requests", "queue_retries", "queue_in_flight",
    "records_written", "rebalances",
}  # fmt: skip


async def test_metrics_pass_on_the_latency_of_the_model_and_nothing_else_of_its_container(
    pair: Gateway, inference: Inference, connect: Connect
) -> None:
    client = await connect(pair)
    await client.send(json.dumps({"type": "infer", "id": "1", "model": "digits", "data": [0.0] * 64}))
    await client.event("result")
    families = {f.name: f for f in text_string_to_metric_families(pair.get("/metrics")[1])}
    samples = families["inference_request_duration_seconds"].samples
    assert any(s.name == "inference_request_duration_seconds_bucket" and s.labels["model"] == "digits" for s in samples)
    assert max(s.value for s in samples if s.name == "inference_request_duration_seconds_count") >= 1
    assert not [
        name for name in families if name.startswith("inference_") and name != "inference_request_duration_seconds"
    ]


async def test_metrics_are_told_without_a_model_that_has_any(start_gateway: Callable[..., Gateway]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    gateway = start_gateway({"kafka": {"embedded": True}, "inference": {"url": url}})
    families = {f.name for f in text_string_to_metric_families(gateway.get("/metrics")[1])}
    assert "podpair_gateway_sessions" in families
    assert "inference_request_duration_seconds" not in families


async def test_metrics(pair: Gateway, connect: Connect) -> None:
    client = await connect(pair)
    answered = pair.metric("requests_completed_total", outcome="result")
    invalid = pair.metric("frames_invalid_total")
    await client.send("noise")
    await client.event("error")
    await client.lives()
    families = {f.name: f for f in text_string_to_metric_families(pair.get("/metrics")[1])}
    assert {f"podpair_gateway_{name}" for name in NAMES} <= set(families)
    assert all(family.documentation for family in families.values())
    assert pair.metric("requests_completed_total", outcome="result") == answered + 1
    assert pair.metric("frames_invalid_total") == invalid + 1
    assert pair.metric("sessions") >= 1
    until(lambda: pair.metric("request_partitions") == 4)  # the group may still be joined
    assert pair.metric("inference_ready") == 1


def test_health_and_readiness(pair: Gateway) -> None:
    assert pair.get("/healthz") == (200, '{"status": "ok"}')
    status, body = pair.get("/readyz")
    assert status == 200
    assert json.loads(body) == {"ready": True, "checks": {"kafka": "ok", "inference": "ok", "gateway": "ok"}}


async def test_what_is_not_there_is_json_too(pair: Gateway, http: aiohttp.ClientSession) -> None:
    async with http.get(pair.url + "/v1/nothing") as answer:
        assert answer.status == 404
        assert await answer.json() == {"error": {"code": "not_found", "message": "there is no /v1/nothing"}}
    async with http.put(pair.url + "/v1/infer") as answer:
        assert answer.status == 405
        assert await answer.json() == {"error": {"code": "invalid", "message": "/v1/infer does not take PUT"}}


async def test_log_records_are_json_and_say_whom_they_are_about(
    before_model: Gateway, model: Any, connect: Connect
) -> None:
    model.answer = (500, {"error": "boom"})
    client = await connect(before_model)
    await client.infer("failing", model="fake", data=[1, 2], route="direct")
    await client.answer("failing")
    record = await soon(lambda: [r for r in before_model.log if r.get("request") == "failing"])
    assert record[0]["session"] == client.welcome["session"]
    assert "boom" in record[0]["message"]
    assert [line for line in before_model.lines if not line.startswith("{")] == []
    for found in before_model.log:
        assert {"time", "level", "logger", "message"} <= set(found)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", found["time"])


def test_the_log_holds_no_token_and_no_secret(pair: Gateway) -> None:
    jwt = token(sid="secretive", secret="x" * 40)
    assert pair.get(f"/v1/ws?token={jwt}")[0] == 401
    text = "\n".join(pair.lines)
    assert jwt not in text
    assert "secret-0123456789" not in text


def test_a_missing_topic_is_an_error_that_names_it(
    broker: Broker, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> None:
    config = {"kafka": {"bootstrap_servers": broker.address, "create_topics": False},
              "requests": names["requests"], "results": names["results"]}  # fmt: skip
    gateway = start_gateway(config, wait=False)
    assert gateway.process.wait(30) == 1
    gateway.kill()
    (error,) = [r for r in gateway.log if r["level"] == "ERROR"]
    assert names["requests"]["topic"] in error["message"]
    assert names["results"]["topic"] in error["message"]
    assert "kafka.create_topics: true" in error["message"]
    assert "exc_info" not in error


def test_missing_topics_are_created_as_configured(
    broker: Broker, inference: Inference, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> None:
    gateway = start_gateway({
        "kafka": {"bootstrap_servers": broker.address}, "inference": {"url": inference.url},
        "requests": names["requests"] | {"partitions": 3}, "results": names["results"] | {"partitions": 3},
    })  # fmt: skip
    gateway.wait_ready()
    topics = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=10).topics
    assert [len(topics[names[n]["topic"]].partitions) for n in ("requests", "results")] == [3, 3]


def test_a_broker_that_is_not_there_is_waited_for_and_named(start_gateway: Callable[..., Gateway]) -> None:
    address = f"127.0.0.1:{free_port()}"
    gateway = start_gateway(
        {"kafka": {"bootstrap_servers": address}, "http": {"port": (port := free_port())}}, wait=False
    )
    gateway.url = f"http://127.0.0.1:{port}"
    why = gateway.wait_for_message("waiting for the broker")["message"]
    assert "Connection refused" in why
    assert gateway.get("/healthz")[0] == 200
    status, body = gateway.get("/readyz")
    assert status == 503
    assert address in json.loads(body)["checks"]["kafka"]
    status, body = gateway.get("/v1/ws")
    assert status == 503
    assert json.loads(body)["error"]["code"] == "overloaded"
    before = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - before < 15
    assert [record["message"] for record in gateway.log if record["level"] == "ERROR"] == []


def test_a_port_that_is_taken_is_told(pair: Gateway, start_gateway: Callable[..., Gateway]) -> None:
    port = int(pair.url.rsplit(":", 1)[1])
    gateway = start_gateway({"kafka": {"embedded": True}, "http": {"port": port}}, wait=False)
    assert gateway.process.wait(30) == 1
    gateway.kill()
    (error,) = [r for r in gateway.log if r["level"] == "ERROR"]
    assert error["message"].startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert "ddress already in use" in error["message"]


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"foo.bar": 1}, "foo.bar"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/none.pem"}, "ssl.ca.location: /none.pem: No such file"),
        # What only one of its clients minds, when others are running already.
        ({"max.in.flight": 100}, "`max.in.flight` must be set <= 5"),
        ({"max.poll.interval.ms": 1}, "`max.poll.interval.ms`"),
    ],
)
def test_a_wrong_property_is_told_in_one_line(
    start_gateway: Callable[..., Gateway], client: dict[str, Any], said: str
) -> None:
    gateway = start_gateway({"kafka": {"embedded": True, "client": client}}, wait=False)
    assert gateway.process.wait(60) == 1
    gateway.kill()
    (error,) = [record for record in gateway.log if record["level"] in ("ERROR", "CRITICAL")]
    assert error["message"].startswith("kafka.client")
    assert said in error["message"]
    assert [line for line in gateway.lines if "exc_info" in line or "Unclosed" in line] == []


def test_keys_that_nobody_publishes_are_told_at_start(start_gateway: Callable[..., Gateway]) -> None:
    url = f"http://127.0.0.1:{free_port()}/jwks"
    config = {"kafka": {"embedded": True}, "auth": {"jwks_url": url, "secret": None}}
    gateway = start_gateway(config)
    error = gateway.wait_for_message(f"no keys of auth.jwks_url {url}")
    assert error["level"] == "ERROR"
    assert gateway.get("/healthz")[0] == 200  # the issuer may be back sooner than this would be
    assert gateway.stop() == 0


async def test_a_gateway_without_keys_is_not_ready_until_it_has_some(
    start_gateway: Callable[..., Gateway], inference: Inference, http: aiohttp.ClientSession
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    key = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    keys: list[Any] = [{"kty": "oct", "kid": "hsm"}]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"keys": keys})

    async with serving(web.get("/jwks", answer)) as url:
        gateway = await asyncio.to_thread(
            start_gateway,
            {
                "kafka": {"embedded": True}, "inference": {"url": inference.url},
                "auth": {"jwks_url": f"{url}/jwks", "secret": None},
            },
        )  # fmt: skip

        async def readiness() -> tuple[int, dict[str, str]]:
            status, body = await asyncio.to_thread(gateway.get, "/readyz")
            return status, json.loads(body)["checks"]

        async def explained() -> bool:
            checks = (await readiness())[1]
            return checks["kafka"] == "ok" and "hsm" in checks["issuer"]

        await soon(explained)
        status, checks = await readiness()
        assert status == 503
        assert checks["issuer"].startswith(f"no keys of auth.jwks_url {url}/jwks yet: none of its keys verifies tokens")
        assert await asyncio.to_thread(gateway.metric, "auth_ready") == 0
        async with http.get(f"{gateway.url}/readyz") as public:
            assert (public.status, await public.json()) == (503, {"status": "not ready"})
        keys.append(key)
        await asyncio.to_thread(gateway.wait_ready)
        assert (await readiness())[1]["issuer"] == "ok"
        assert await asyncio.to_thread(gateway.metric, "auth_ready") == 1
        signed = jwt.encode({"sub": "ann", "exp": time.time() + 600}, private, algorithm="ES256")
        async with http.get(f"{gateway.url}/v1/ws", headers={"Authorization": f"Bearer {signed}"}) as answered:
            assert answered.status == 426


def test_a_gateway_that_is_told_to_waits_for_its_topics(
    broker: Broker, inference: Inference, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> None:
    gateway = start_gateway(
        {
            "kafka": {"bootstrap_servers": broker.address, "create_topics": False, "await_topics": True},
            "requests": names["requests"],
            "results": names["results"],
            "inference": {"url": inference.url},
            "http": {"port": (port := free_port())},
        },
        wait=False,
    )
    gateway.url = f"http://127.0.0.1:{port}"
    requests, results = names["requests"]["topic"], names["results"]["topic"]
    gateway.wait_for(lambda line: "waiting for topic" in line and requests in line)
    status, body = gateway.get("/readyz")
    assert status == 503
    assert results in json.loads(body)["checks"]["kafka"]
    admin = AdminClient({"bootstrap.servers": broker.address})
    wanted = [requests, results, f"{requests}.dlq"]
    for future in admin.create_topics([NewTopic(name, 2, 1) for name in wanted]).values():
        future.result()
    gateway.wait_ready()
