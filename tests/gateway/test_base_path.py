"""A gateway below a path: everything is there, and at the root as well."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError
from yarl import URL

from gateway.fake_model import FakeModel
from harness.generated_resources import GOOD
from harness.pair import Gateway, token
from podpair import client
from podpair.common.gateway_config.clients import Http
from podpair.gateway.http.routes import Routes, path_of, raw_path_of
from podpair.operator.core.api import scalars

pytestmark = pytest.mark.process

BASE = "/models/digits"
BEARER = {"Authorization": f"Bearer {token(sid='below')}"}


@pytest.fixture(scope="module")
def _gateway(start_before_fake: Callable[..., Gateway]) -> Gateway:
    http = {"base_path": f"{BASE}/", "origins": ["https://app.example"]}
    return start_before_fake(http=http, console={"enabled": True})


@pytest.fixture
def gateway(model: FakeModel, _gateway: Gateway) -> Gateway:
    return _gateway


@pytest.mark.parametrize("base", ["", BASE])
@pytest.mark.parametrize(
    "path",
    ["/", "/podpair.js", "/console.js", "/console.json", "/healthz", "/readyz", "/v2/health/ready", "/v2/models/fake"],
)
async def test_what_can_be_read(gateway: Gateway, http: aiohttp.ClientSession, base: str, path: str) -> None:
    async with http.get(gateway.url + base + path, headers=BEARER) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("base", ["", BASE])
async def test_each_way_to_ask(gateway: Gateway, model: FakeModel, http: aiohttp.ClientSession, base: str) -> None:
    url = gateway.url + base
    async with client.connect(url, token=token()) as session:
        assert (await session.infer("fake", [1.0, 2.0])).data is not None
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    async with http.post(f"{url}/v2/models/fake/infer", json=body, headers=BEARER) as answer:
        assert answer.status == 200
    chat = {"model": "llm", "messages": [{"role": "user", "content": "to be"}]}
    async with http.post(f"{url}/v1/chat/completions", json=chat, headers=BEARER) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == "to be"
    async with http.get(f"{url}/v1/events", headers=BEARER) as stream, asyncio.timeout(60):
        asked = {"id": "r", "model": "fake", "data": [1.0, 2.0]}
        async with http.post(f"{url}/v1/infer", json=asked, headers=BEARER) as answer:
            assert answer.status == 202
        while not (await stream.content.readline()).startswith(b"event: result"):
            pass


async def test_errors_have_the_form_of_what_was_asked(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{gateway.url}{BASE}/v2/nothing") as answer:
        assert (answer.status, await answer.json()) == (404, {"error": f"there is no {BASE}/v2/nothing"})
    async with http.get(f"{gateway.url}{BASE}/v1/nothing") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
    async with http.get(f"{gateway.url}{BASE}x/v1/ws") as answer:
        assert answer.status == 404


async def test_pages_of_other_origins_are_judged_alike(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    for origin, status in (("https://app.example", 426), ("https://foreign.example", 403)):
        async with http.get(f"{gateway.url}{BASE}/v1/ws", headers=BEARER | {"Origin": origin}) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, origin)
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with http.options(f"{gateway.url}{BASE}/v2/models/fake/infer", headers=asked) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, origin)
    async with http.get(f"{gateway.url}{BASE}/podpair.js", headers={"Origin": "https://foreign.example"}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_the_path_itself_leads_to_the_page_below_it(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{gateway.url}{BASE}?session=a%26b", allow_redirects=False) as answer:
        assert answer.status == 308
        # Relative, for a proxy before may have a prefix of its own.
        assert answer.headers["Location"] == "./digits/?session=a%26b"
    async with http.get(f"{gateway.url}{BASE}?session=me") as answer:
        assert str(answer.url) == f"{gateway.url}{BASE}/?session=me"
        assert "console.js" in await answer.text()


@pytest.fixture
async def below() -> AsyncIterator[Any]:
    """`below(base)` starts a server that says which path a request is for; gives its address."""
    runners: list[web.AppRunner] = []

    async def start(base: str) -> str:
        app = web.Application()

        async def said(request: web.Request) -> web.Response:
            return web.json_response([path_of(request), raw_path_of(request)])

        @web.middleware
        async def unknown(request: web.Request, handler: Any) -> web.StreamResponse:
            return await said(request) if request.match_info.http_exception is not None else await handler(request)

        app.middlewares.append(unknown)
        routes = Routes(app, Http(base_path=base).base_path)
        for path in ("/", "/v1/ws", "/v2", "/v2/models/{model}/infer"):
            routes.get(path, said)
        routes.redirect_base()
        runners.append(web.AppRunner(app))
        await runners[-1].setup()
        await web.TCPSite(runners[-1], "127.0.0.1", 0).start()
        return "http://{}:{}".format(*runners[-1].addresses[0][:2])

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize(
    "base",
    [
        *GOOD[scalars.URL_PATH],
        "/v1",
        "/v2",
        "/v1/ws",
        "/v2/models",
        "/~!$&'()*+,;=:@",
        "/%41/%7b%7D",
        "/%E2%82%AC",
        "/%25",
    ],
)
async def test_below_any_path_that_a_resource_may_have(base: str, below: Any, http: aiohttp.ClientSession) -> None:
    url = await below(base)
    prefix = base.rstrip("/")
    for at in ("", prefix):
        for path in ("/v1/ws", "/v2", "/v2/models/a%20b/infer", "/v1/nothing", "/v2/nothing"):
            async with http.get(URL(url + at + path, encoded=True)) as answer:
                assert await answer.json() == [path.replace("%20", " "), path], at
    async with http.get(URL(f"{url}{prefix}/", encoded=True)) as answer:
        assert await answer.json() == ["/", "/"]


@pytest.mark.parametrize(
    "base", ["digits", "//a", "/a//b", "/a/../b", "/.", "/a/./b", "/a b", "/a%2Fb", "/a?b", "/a#b", "/a%", "/{a}"]
)
def test_what_is_no_path_is_refused(base: str) -> None:
    with pytest.raises(ValidationError, match="is not a path such as /digits"):
        Http(base_path=base)
