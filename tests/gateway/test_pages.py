"""Pages of other origins: what they may ask, and what they may read, over plain HTTP as the Fetch standard's CORS has it."""

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gateway.conftest import UPGRADE
from gateway.fake_model import FakeModel
from harness.javascript import LIBRARY
from harness.pair import Gateway, token

pytestmark = pytest.mark.process

PAGE, FOREIGN = "https://app.example", "https://foreign.example"
BEARER = {"Authorization": f"Bearer {token(sid='page')}"}
API = [
    ("GET", "/v1/ws"), ("GET", "/v1/events"), ("POST", "/v1/infer"), ("POST", "/v1/chat/completions"), ("GET", "/v2"),
    ("GET", "/v2/models/fake"), ("GET", "/v2/health/ready"), ("POST", "/v2/models/fake/infer"),
    ("POST", "/v2/models/fake/versions/1/infer"),
]  # fmt: skip


@pytest.fixture(scope="module")
def _gateway(start_before_fake: Callable[..., Gateway]) -> Gateway:
    return start_before_fake(http={"origins": [f"{PAGE}:443"]}, console={"enabled": True})


@pytest.fixture
def gateway(model: FakeModel, _gateway: Gateway) -> Gateway:
    return _gateway


async def preflight(http: aiohttp.ClientSession, url: str, method: str, origin: str, asked: str = "") -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    if asked:
        headers["Access-Control-Request-Headers"] = asked
    async with http.options(url, headers=headers) as answer:
        await answer.read()
        return answer


@pytest.mark.parametrize(("method", "path"), API)
@pytest.mark.parametrize("origin", [PAGE, FOREIGN])
async def test_every_page_may_go_on_to_ask(
    gateway: Gateway, http: aiohttp.ClientSession, method: str, path: str, origin: str
) -> None:
    """Also one that is refused then: else its browser would not let it read why."""
    asked = "authorization,content-type,x-stainless-lang, podpair-origin"
    answer = await preflight(http, gateway.url + path, method, origin, asked)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert method in answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert (
        answer.headers["Access-Control-Allow-Headers"]
        == "authorization, content-type, x-stainless-lang, podpair-origin"
    )
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(("method", "path"), API)
async def test_a_page_that_is_not_allowed_can_read_why_and_nothing_is_done_for_it(
    gateway: Gateway, model: FakeModel, http: aiohttp.ClientSession, method: str, path: str
) -> None:
    before = gateway.metric("rejected_total", stage="connection", reason="forbidden")
    body = {"model": "fake", "messages": [], "inputs": [], "id": "r", "data": [1.0, 2.0]} if method == "POST" else None
    headers = BEARER | {"Origin": FOREIGN} | (UPGRADE if path == "/v1/ws" else {})
    async with http.request(method, gateway.url + path, headers=headers, json=body) as answer:
        assert answer.status == 403
        error = (await answer.json())["error"]
        message = error if path.startswith("/v2") else error["message"]
        assert FOREIGN in message
        assert "http.origins" in message
        assert answer.headers["Access-Control-Allow-Origin"] == FOREIGN
    assert model.asked == []
    assert gateway.metric("rejected_total", stage="connection", reason="forbidden") == before + 1


async def test_an_allowed_page_reads_answers_with_all_their_headers(
    gateway: Gateway, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    url = f"{gateway.url}/v2/models/fake/infer"
    for headers, status in ((BEARER, 200), ({}, 401)):
        async with http.post(url, json=body, headers=headers | {"Origin": PAGE}) as answer:
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
            assert answer.headers["Access-Control-Expose-Headers"] == "*"
            assert "Origin" in answer.headers["Vary"]
    async with http.get(f"{gateway.url}/v1/events", headers=BEARER | {"Origin": PAGE}) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    async with http.post(url, json=body, headers=BEARER) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_every_page_can_read_an_error_that_comes_of_a_wrong_address(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    answer = await preflight(http, f"{gateway.url}/ws", "GET", FOREIGN, "authorization")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, FOREIGN)
    async with http.get(f"{gateway.url}/ws", headers={"Origin": FOREIGN}) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (404, FOREIGN)
        assert "/ws" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/console.json", "/console.js", "/readyz"])
async def test_what_is_not_for_other_pages_is_not_given_to_them(
    gateway: Gateway, http: aiohttp.ClientSession, path: str
) -> None:
    for origin in (PAGE, FOREIGN):
        async with http.get(gateway.url + path, headers={"Origin": origin}) as answer:
            assert answer.status == 200
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Access-Control-Allow-Origin" not in (await preflight(http, gateway.url + path, "GET", origin)).headers


@pytest.mark.parametrize("file", [file.name for file in LIBRARY])
@pytest.mark.parametrize("origin", [PAGE, FOREIGN, "null", None])
async def test_every_page_may_import_the_library(
    gateway: Gateway, http: aiohttp.ClientSession, file: str, origin: str | None
) -> None:
    async with http.get(f"{gateway.url}/{file}", headers={"Origin": origin} if origin else {}) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


async def test_what_a_page_writes_is_not_taken_for_a_proxys_word(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    asked = "authorization, x-forwarded-host, X-Forwarded-For, forwarded"
    answer = await preflight(http, f"{gateway.url}/v2", "GET", FOREIGN, asked)
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/ws", "GET, OPTIONS"),
        ("/v1/infer", "OPTIONS, POST"),
        ("/v2", "GET, HEAD, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_says_what_is_taken(
    gateway: Gateway, http: aiohttp.ClientSession, path: str, methods: str
) -> None:
    async with http.options(gateway.url + path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (204, methods)
    async with http.options(gateway.url + "/nowhere") as answer:
        assert answer.status == 404


async def test_the_second_look_of_a_page_of_the_gateways_own_is_judged_as_its_upgrade_was(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    """A browser sends no Origin with a GET to where the page is from; podpair.js says it."""
    url = f"{gateway.url}/v1/ws"
    async with http.get(url, headers=BEARER | {"podpair-origin": gateway.url}) as answer:
        assert answer.status == 426
    async with http.get(url, headers=BEARER | {"podpair-origin": gateway.url, "Host": "inner:8080"}) as answer:
        assert answer.status == 403
        assert "'inner:8080'" in (await answer.json())["error"]["message"]
    # It never opens what Origin closes.
    async with http.get(url, headers=BEARER | {"podpair-origin": PAGE, "Origin": FOREIGN}) as answer:
        assert answer.status == 403


async def test_refusals_of_pages_are_logged_and_no_flood(
    gateway: Gateway, model: FakeModel, http: aiohttp.ClientSession
) -> None:
    for _ in range(50):
        async with http.get(f"{gateway.url}/v2", headers={"Origin": FOREIGN}) as answer:
            assert answer.status == 403
    lines = [line for line in gateway.log if line["message"].startswith("a page was refused")]
    assert 1 <= len(lines) <= 5
    assert lines[0]["level"] == "WARNING"
    assert lines[0]["origin"] == FOREIGN
    assert "http.origins" in lines[0]["message"]
