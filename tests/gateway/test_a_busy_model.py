"""A model that refuses one request, or answers it with what is no answer, is no outage: the others go on, and that one ends."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from gateway.conftest import Client, Connect
from gateway.raw_model import CLOSE, CONTINUE, Asked, RawModel, Step, answer_to, response
from harness.pair import Gateway, token
from harness.waiting import soon

pytestmark = pytest.mark.process

POISON = 77.0


@pytest.fixture(scope="module")
def raw_model() -> Iterator[RawModel]:
    made = RawModel()
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(raw_model: RawModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(
        tmp_path_factory.mktemp("busy"),
        {
            "kafka": {"embedded": True},
            "inference": {
                "url": raw_model.url,
                "probe_seconds": 0.1,
                "timeout_seconds": 20,
                "max_response_bytes": 50_000,
            },
            "requests": {"max_attempts": 2, "backoff_seconds": 0.05, "busy_seconds": 1.5, "max_model_crashes": 2},
            "auth": {"query_token": True},
            "admission": {"load_shedding": False},
        },
    )
    made.wait_ready()
    yield made
    made.stop()


@pytest.fixture
def model(raw_model: RawModel) -> Iterator[RawModel]:
    yield raw_model
    raw_model.reset()


def refuses(*steps: Step) -> Callable[[Asked], list[Step]]:
    """Whatever holds the poison is answered so."""
    return lambda asked: list(steps) if any(POISON in (v, v - 0.5) for v in asked.sums) else [answer_to(asked)]


async def ask(client: Client, request_id: str, value: float, route: str = "direct", **members: Any) -> None:
    await client.infer(request_id, model="raw", data=[value, 0.5], route=route, **members)


async def answered(client: Client, request_id: str, value: float) -> None:
    event = await client.answer(request_id)
    assert event.get("data") == {"y": value}, event


async def test_four_users_behind_100_continue_each_get_their_own(
    gateway: Gateway, model: RawModel, connect: Connect
) -> None:
    model.script = lambda asked: [CONTINUE, 0.15, answer_to(asked)]
    clients = [await connect(gateway, sub=f"u{n}") for n in range(4)]
    for turn in range(2):
        for number, client in enumerate(clients):
            await ask(client, f"r{turn}", float(number))
            await answered(client, f"r{turn}", number + 0.5)


KINDS: dict[str, tuple[list[Step], str]] = {
    "503": ([response(503, {"error": "the queue is full"})], "busy"),
    "503 for ever": ([response(503, {"error": "full"}, "Retry-After: 99999999999999999999999")], "busy"),
    "503 for no number": ([response(503, {"error": "full"}, "Retry-After: nan")], "busy"),
    "429": ([response(429, {"error": "full"}, "Retry-After: -1")], "busy"),
    "429 for ever": ([response(429, {"error": "full"}, "podpair-retry-after-ms: inf")], "busy"),
    "no HTTP": ([b"\x16\x03\x01\x00 what?"], "not HTTP"),
    "101": ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"], "not HTTP"),
    "nothing": ([CLOSE], "died"),
    "a redirect": ([response(302, b"", "Location: /v2/models/other/infer")], "redirects"),
    "too much": ([response(200, b" " * 50_001)], "max_response_bytes"),
}


@pytest.mark.parametrize("name", KINDS)
async def test_one_queued_request_that_is_refused_each_time_ends_and_harms_nobody(
    gateway: Gateway, model: RawModel, connect: Connect, name: str
) -> None:
    steps, said = KINDS[name]
    model.script = refuses(*steps)
    dead, lines = gateway.metric("dead_letters_total"), len(gateway.lines)
    client, other = await connect(gateway), await connect(gateway)
    await ask(client, "poison", POISON, "queue")
    unready = 0

    async def watch() -> None:
        nonlocal unready
        while True:
            unready += (await asyncio.to_thread(gateway.get, "/readyz"))[0] != 200
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    for number in range(30):
        await ask(other, f"d{number}", float(number))
        await answered(other, f"d{number}", number + 0.5)
    for number in range(5):
        await ask(other, f"q{number}", float(number), "queue")
        await answered(other, f"q{number}", number + 0.5)
    error = await client.answer("poison")
    watching.cancel()
    assert (error["type"], error["code"]) == ("error", "upstream"), error
    assert said in error["message"], error
    assert unready == 0
    assert gateway.metric("dead_letters_total") == dead + 1
    await soon(lambda: gateway.metric("queue_in_flight") == 0)
    told = gateway.lines[lines:]
    assert len(told) < 10, told
    assert not [line for line in told if "Traceback" in line]


async def test_a_direct_request_that_is_refused_is_told_when_to_come_again(
    gateway: Gateway, model: RawModel, connect: Connect
) -> None:
    client = await connect(gateway)
    for header, least, most in (("1", 1000, 1000), ("9" * 25, 30_000, 30_000), ("inf", 1, 30_000), ("-5", 1, 30_000)):
        model.script = refuses(response(503, {"error": "the queue is full"}, f"Retry-After: {header}"))
        await ask(client, "r", POISON)
        error = await client.answer("r")
        assert (error["code"], error["message"]) == ("overloaded", "the queue is full"), error
        assert least <= error["retry_after_ms"] <= most, error


@pytest.mark.parametrize(
    ("step", "route", "code"),
    [
        (response(503, {"error": "no"}), "direct", "overloaded"),
        (CLOSE, "direct", "upstream"),
        (CLOSE, "queue", "upstream"),
    ],
    ids=["refused", "closed upon", "closed upon, queued"],
)
async def test_requests_that_share_a_call_with_one_that_is_refused_are_answered(
    gateway: Gateway, model: RawModel, connect: Connect, step: Step, route: str, code: str
) -> None:
    poisoned = refuses(step)
    held = True

    def script(asked: Asked) -> Iterator[Step]:
        while 100.5 in asked.sums and held:
            yield 0.01
        yield from poisoned(asked)

    client = await connect(gateway)
    for number in range(8):  # until it is known that they may share a call
        await ask(client, f"w{number}", float(number))
        await client.answer(f"w{number}")
    await soon(lambda: any("its requests share calls" in line for line in gateway.lines))
    model.asked.clear()
    model.script = script
    await ask(client, "first", 100.0)
    await soon(lambda: model.asked)
    for number in range(12):
        if number == 5:
            await ask(client, "r5", POISON, route)
        else:
            await ask(client, f"r{number}", float(number))
        await client.event("accepted", id=f"r{number}")
    held = False
    answers = {}
    while len(answers) < 13:
        event = await client.next()
        if event["type"] in ("result", "error"):
            answers[event["id"]] = event
    assert answers.pop("r5")["code"] == code
    assert answers.pop("first")["data"] == {"y": 100.5}
    assert {name: event.get("data") for name, event in answers.items()} == {
        f"r{n}": {"y": n + 0.5} for n in range(12) if n != 5
    }
    calls = [len(asked.sums) for asked in model.asked if asked.method == "POST"]
    assert calls[:2] == [1, 12] if route == "direct" else max(calls) >= 11
    assert len(calls) <= 1 + 2 * 12 - 1


async def test_a_model_that_says_it_is_not_ready_costs_nothing_however_long(
    gateway: Gateway, model: RawModel, connect: Connect
) -> None:
    model.script = lambda asked: [response(503, {"error": "starting"})] if not model.ready else [answer_to(asked)]
    client = await connect(gateway)
    model.ready = False
    await ask(client, "r", 4.0, "queue")
    await client.event("accepted", id="r")
    await soon(lambda: gateway.get("/readyz")[0] == 503)
    probes, dead = model.probes, gateway.metric("dead_letters_total")
    end = time.monotonic() + 2.0  # longer than busy_seconds
    await soon(lambda: time.monotonic() > end and model.probes > probes + 5)
    model.ready = True
    await answered(client, "r", 4.5)
    assert gateway.metric("dead_letters_total") == dead


async def test_a_request_that_waits_for_its_next_attempt_does_not_hold_up_the_end(
    raw_model: RawModel, start_gateway: Callable[..., Gateway], connect: Connect
) -> None:
    model = raw_model
    model.script = refuses(response(503, {"error": "full"}, "Retry-After: 30"))
    gateway = start_gateway(
        {
            "kafka": {"embedded": True},
            "inference": {"url": model.url},
            "requests": {"busy_seconds": 600},
            "shutdown_seconds": 500,
        }
    )
    await asyncio.to_thread(gateway.wait_ready)
    client = await connect(gateway)
    await ask(client, "poison", POISON, "queue")
    await soon(lambda: gateway.metric("queue_retries_total", reason="busy") == 1)
    await client.socket.close()
    await asyncio.to_thread(gateway.stop)
    assert gateway.process.returncode == 0
    model.reset()


async def test_a_model_has_times_of_its_own(
    raw_model: RawModel, start_gateway: Callable[..., Gateway], connect: Connect, http: aiohttp.ClientSession
) -> None:
    model = raw_model
    own = {"inference": {"timeout_seconds": 0.3}, "requests": {"busy_seconds": 0.3, "max_attempts": 1}}
    gateway = start_gateway(
        {
            "kafka": {"embedded": True},
            "inference": {"url": model.url, "timeout_seconds": 600, "models": [{"model": "raw", **own["inference"]}]},
            "requests": {
                "busy_seconds": 600, "max_attempts": 50, "models": [{"model": "raw", **own["requests"]}],
            },
        }
    )  # fmt: skip
    await asyncio.to_thread(gateway.wait_ready)
    client = await connect(gateway)
    model.script = lambda _: [30.0]
    for request_id, members in (("one", {}), ("stream", {"stream": True}), ("queued", {"route": "queue"})):
        await ask(client, request_id, POISON, **members)
        error = await client.answer(request_id)
        assert error["code"] == "upstream", error
        assert "in 0.3 s" in error["message"], error
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [POISON, 0.5]}
    for path in ("infer", "generate_stream"):
        url = f"{gateway.url}/v2/models/raw/{path}"
        headers = {"Authorization": f"Bearer {token()}"}
        async with http.post(url, json={"inputs": [tensor]}, headers=headers) as answer:
            assert answer.status == 504
            assert (await answer.json())["error"] == "no answer in 0.3 s"
    model.script = lambda _: [response(429, {"error": "full"})]
    await ask(client, "busy", POISON, "queue")
    error = await client.answer("busy")
    assert "the model was busy" in error["message"], error
    assert "in 0.3 s" in error["message"], error
    model.reset()


@pytest.mark.parametrize("path", ["/v2/models/raw/infer", "/v1/chat/completions"])
async def test_what_is_passed_through_and_what_is_not(
    gateway: Gateway, model: RawModel, http: aiohttp.ClientSession, path: str
) -> None:
    """No credential of the client's goes on, none of the connection's headers comes back; the rest does go on."""
    model.script = lambda asked: [
        response(
            200, {"ok": 1}, "Set-Cookie: a=b", "X-Its-Own: x", "Keep-Alive: timeout=5", "Retry-After: 9999999999999",
            "podpair-inference-ms: nan", "Server: x",
        )
    ]  # fmt: skip
    jwt = token()
    query = f"a=1&token={jwt}&b=%20x&resume=r&%74oken={jwt}&position=e.0.1&c&TOKEN=x"
    headers = {
        "Authorization": f"Bearer {jwt}",
        "Cookie": "session=1",
        "X-Mine": "1",
        "Content-Type": "application/json",
    }
    for _ in range(2):
        async with http.post(f"{gateway.url}{path}?{query}", data=b"{}", headers=headers) as answer:
            assert (answer.status, await answer.json()) == (200, {"ok": 1})
            names = {name.lower() for name in answer.headers}
            assert names.isdisjoint({"set-cookie", "keep-alive", "podpair-inference-ms"})
            assert answer.headers["X-Its-Own"] == "x"
            assert answer.headers["Retry-After"] == "30"
        asked = model.asked[-1]
        assert asked.target == f"{path}?a=1&b=%20x&c"
        assert asked.headers["x-mine"] == "1"
        assert set(asked.headers) <= {
            "x-mine",
            "host", "content-type", "content-length", "podpair-key", "accept", "accept-encoding", "user-agent", "connection",
        }, asked.headers  # fmt: skip
        assert jwt not in str(asked)


@pytest.mark.parametrize("path", ["/v2/models/raw/infer", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([CONTINUE, response(200, {"own": 1})], 200),
        ([response(307, b"", "Location: http://127.0.0.1:1/")], 502),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"], 502),
        ([b"what?"], 502),
        ([response(503, {"error": "full"})], 503),
        ([CLOSE], 503),
    ],
    ids=["100", "a redirect", "101", "no HTTP", "503", "nothing"],
)
async def test_answers_that_are_passed_through_are_judged_alike(
    gateway: Gateway, model: RawModel, http: aiohttp.ClientSession, path: str, steps: list[Step], status: int
) -> None:
    model.script = lambda asked: steps
    headers = {"Authorization": f"Bearer {token()}"}
    for _ in range(2):
        async with http.post(gateway.url + path, data=b"{}", headers=headers) as answer:
            assert answer.status == status, await answer.text()
            if status != 503:
                assert json.loads(await answer.read()).keys() in ({"own"}, {"error"})
    assert len(model.asked) == 2
    assert gateway.get("/readyz")[0] == 200


@pytest.mark.parametrize("path", ["/v2/models/raw/infer", "/v1/chat/completions"])
async def test_an_answer_that_nobody_asked_for_is_nobodys(
    gateway: Gateway, model: RawModel, http: aiohttp.ClientSession, path: str
) -> None:
    model.script = lambda asked: [response(200, {"own": asked.document["n"]})]
    headers = {"Authorization": f"Bearer {token()}"}
    for number in range(4):
        async with http.post(gateway.url + path, json={"n": number}, headers=headers) as answer:
            assert await answer.json() == {"own": number}
        model.say(response(200, {"own": "another's"}))


async def test_an_answer_of_v2_that_is_too_large(
    gateway: Gateway, model: RawModel, http: aiohttp.ClientSession
) -> None:
    model.script = lambda asked: [b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 50_001, CLOSE]
    headers = {"Authorization": f"Bearer {token()}"}
    async with http.post(gateway.url + "/v2/models/raw/infer", data=b"{}", headers=headers) as answer:
        assert answer.status == 502
        assert "inference.max_response_bytes" in (await answer.json())["error"]
