"""The console in a real browser, in front of a gateway that does what the test says."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page, expect

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}
DARK = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark", "reduced_motion": "reduce"}


class Demo:
    """Answers what the page asks; `connection` is its present one."""

    def __init__(self, gateway: Any) -> None:
        self.gateway = gateway
        self.settings: dict[str, Any] = {"model": "digits", "token_url": "/console/token", "version": "0.1"}
        self.route = "direct"
        self.label = 7
        self.connection: Any = None
        #: What was asked over the WebSocket, and over HTTP.
        self.asked: list[dict[str, Any]] = []
        self.posted: list[dict[str, Any]] = []
        self.tokens: list[Any] = []
        self.offset = 0
        gateway.routes["GET", "/console.json"] = self._settings
        gateway.routes["POST", "/console/token"] = self._token
        gateway.routes["POST", "/v1/infer"] = self._post

    async def _settings(self, _: web.Request) -> web.Response:
        return web.json_response(self.settings)

    async def _token(self, request: web.Request) -> web.Response:
        self.tokens.append(await request.json())
        return web.json_response({"token": "minted"})

    async def _post(self, request: web.Request) -> web.Response:
        self.posted.append({**await request.json(), "resume": request.query["resume"]})
        return web.json_response({"id": self.posted[-1]["id"], "session": "demo", "route": "queue"}, status=202)

    def position(self) -> str:
        self.offset += 1
        return f"e.3.{self.offset}"

    def result(self, frame: dict[str, Any], **members: Any) -> dict[str, Any]:
        data = {"probabilities": [0.9 if n == self.label else 0.1 / 9 for n in range(10)], "label": str(self.label)}
        timing = {"queue_ms": 0.5, "inference_ms": 0.2}
        whose = {"id": frame["id"], "model": frame["model"], "model_version": "1"}
        return {"type": "result", **whose, "data": data, "timing": timing, **members}

    async def serve(self) -> None:
        """Welcome each connection, deliver what was posted meanwhile, answer what is asked."""
        while True:
            self.connection = await self.gateway.arrivals.get()
            await self.connection.welcome(session="demo")
            for frame in self.posted:
                await self.connection.send(self.result(frame, position=self.position()))
            self.posted.clear()
            await self._answer(self.connection)

    async def _answer(self, connection: Any) -> None:
        while True:
            getting, gone = (
                asyncio.ensure_future(connection.frames.get()),
                asyncio.ensure_future(connection.closed.wait()),
            )
            await asyncio.wait((getting, gone), return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not getting.done():
                getting.cancel()
                return
            frame = getting.result()
            self.asked.append(frame)
            if frame["type"] == "infer" and self.route != "never":
                where = {"position": self.position()} if self.route == "queue" else {}
                await connection.send({"type": "accepted", "id": frame["id"], "route": self.route})
                await connection.send(self.result(frame, **where))


@pytest.fixture
async def demo(gateway: Any) -> AsyncIterator[Demo]:
    demo = Demo(gateway)
    serving = asyncio.ensure_future(demo.serve())
    yield demo
    serving.cancel()
    await asyncio.wait((serving,))
    if not serving.cancelled():
        serving.result()


async def draw(page: Page, points: list[tuple[float, float]]) -> None:
    """A line through the points, in units of the pad, with the mouse."""
    box = await page.locator("#pad").bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(points):
        await page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=1 if number == 0 else 5)
        if number == 0:
            await page.mouse.down()
    await page.mouse.up()


@pytest.mark.parametrize("page_options", [{}, PHONE, DARK], ids=["desktop", "phone", "dark"])
async def test_a_drawn_digit_is_answered_with_bars_and_the_way_it_took(
    page: Page, gateway: Any, demo: Demo, page_options: dict[str, Any]
) -> None:
    await page.goto(gateway.url)
    await draw(page, [(0.3, 0.2), (0.7, 0.2), (0.45, 0.85)])
    await expect(page.locator("#digit")).to_have_text("7")
    await expect(page.locator("#sure")).to_have_text("90 % sure")
    await expect(page.locator("#bars .top1 .name")).to_have_text("7")
    await expect(page.locator("#route")).to_have_text("direct")
    await expect(page.locator("#leg-total")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    await expect(page.locator("#spoken")).to_contain_text("The answer is 7")
    frame = demo.asked[-1]
    assert (frame["model"], frame["route"], len(frame["data"])) == ("digits", "auto", 64)
    assert all(0 <= value <= 1 for value in frame["data"])
    # Nothing sticks out sideways.
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_a_finger_draws_too(gateway: Any, demo: Demo, page: Page) -> None:
    await page.goto(gateway.url)
    await expect(page.locator("#digit")).to_have_text("7")
    before = len(demo.asked)
    for kind, x in (("pointerdown", 40), ("pointermove", 60), ("pointermove", 80), ("pointerup", 80)):
        init = {"pointerId": 7, "pointerType": "touch", "clientX": 100 + x, "clientY": 200, "button": 0}
        # A synthetic pointer can't be captured; the real ones are the mouse's test.
        await page.evaluate("document.getElementById('pad').setPointerCapture = () => {}")
        await page.dispatch_event("#pad", kind, init)
    await page.wait_for_function("document.getElementById('hint').classList.contains('gone')")
    await expect(page.locator("#open-count")).to_have_text("0")
    assert len(demo.asked) > before


async def test_the_route_that_is_chosen_is_asked_for(page: Page, gateway: Any, demo: Demo) -> None:
    demo.route = "queue"
    await page.goto(gateway.url)
    await expect(page.locator("#route")).to_have_text("spilled")  # asked for auto, and queued
    await page.get_by_role("radio", name="queue").check()
    await page.get_by_role("button", name="Draw a 4").click()
    await expect(page.locator("#route")).to_have_text("queued")
    await expect(page.locator("#wait-name")).to_have_text("in Kafka")
    assert demo.asked[-1]["route"] == "queue"


async def test_the_session_is_shown(page: Page, gateway: Any, demo: Demo) -> None:
    await page.goto(f"{gateway.url}/?session=mine")
    await expect(page.locator("#status-text")).to_have_text("connected to gateway-a")
    await demo.connection.send({"type": "push", "data": {"hello": "world"}, "position": "e.3.41"})
    await expect(page.locator("#pushes li")).to_have_text('{"hello":"world"}')
    for name, text in {"s-id": "demo", "s-gateway": "gateway-a", "s-home": "3", "s-position": "41"}.items():
        await expect(page.locator(f"#{name}")).to_have_text(text)
    await expect(page.locator("#command")).to_contain_text('push --session demo \'{"hello": "world"}\'')
    assert demo.tokens == [{"session": "mine"}]


async def test_the_log_is_filtered(page: Page, gateway: Any, demo: Demo) -> None:
    await page.goto(gateway.url)
    await expect(page.locator("#digit")).to_have_text("7")
    await demo.connection.send({"type": "push", "data": "needle", "position": demo.position()})
    await expect(page.locator("#log tr .type").first).to_have_text("push")
    await page.get_by_label("Show").select_option("session")
    await expect(page.locator("#log tr .type")).to_have_text(["open", "welcome", "connecting"])
    await page.get_by_label("Show").select_option("")
    await page.get_by_label("Find in the log").fill("needle")
    await expect(page.locator("#log tr")).to_have_count(1)


async def test_cutting_the_wire_lets_results_wait_and_resume_brings_them(page: Page, gateway: Any, demo: Demo) -> None:
    await page.goto(gateway.url)
    await expect(page.locator("#digit")).to_have_text("7")
    demo.label = 4
    await page.get_by_role("button", name="Cut the wire").click()
    await expect(page.locator("#status-text")).to_have_text("the wire is cut")
    await expect(page.locator("#tray")).to_contain_text("waits in Kafka")
    # Drawing goes on: it is posted into the session over HTTP.
    await page.get_by_role("button", name="Draw a 4").click()
    await expect(page.locator("#tray .posted").nth(1)).to_be_visible()
    assert {posted["resume"] for posted in demo.posted} == {"resume-1"}
    await page.get_by_role("button", name=re.compile("Mend it now")).click()
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
    await expect(page.locator("#digit")).to_have_text("4")
    await expect(page.locator("#route")).to_have_text("kept in Kafka, come by resume")
    await expect(page.locator("#trouble")).to_have_text(re.compile(r"Back again: \d events came by resume"))
    await expect(page.locator("#open-count")).to_have_text("0")
    await page.get_by_label("Show").select_option("resumed")
    await expect(page.locator("#log tr").first).to_contain_text("by resume")


async def test_the_wire_mends_itself(page: Page, gateway: Any, demo: Demo) -> None:
    await page.clock.install()
    await page.goto(gateway.url)
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
    await page.get_by_role("button", name="Cut the wire").click()
    await expect(page.locator("#status")).to_have_attribute("data-state", "disconnected")
    await page.clock.run_for(7000)
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
    await expect(page.locator("#s-resumed")).to_have_text("1 time")


async def test_a_session_that_was_taken_over_can_be_taken_back(page: Page, gateway: Any, demo: Demo) -> None:
    await page.goto(gateway.url)
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
    await demo.connection.close(4009, "taken over")
    await expect(page.locator("#banner")).to_contain_text("Another page holds this session")
    await page.get_by_role("button", name="Take it back").click()
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
    await expect(page.locator("#banner")).to_be_hidden()
    assert demo.connection.query["resume"] == "resume-1"


async def test_without_a_mint_the_page_asks_for_a_token_and_says_why_it_was_refused(
    page: Page, gateway: Any, demo: Demo
) -> None:
    demo.settings["token_url"] = None
    await page.goto(gateway.url)
    dialog = page.get_by_role("dialog", name="A token, please")
    gateway.refuse(401, "unauthorized", "the token is another issuer's")
    await dialog.get_by_label("token").fill("bad")
    await dialog.get_by_role("button", name="Connect").click()
    await expect(dialog).to_contain_text("another issuer's")
    await dialog.get_by_label("token").fill("good")
    await dialog.get_by_role("button", name="Connect").click()
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
    assert demo.connection.offered == ["podpair.v1", "bearer.good"]
    await page.reload()
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")


async def test_another_model_gets_an_editor_for_its_data(page: Page, gateway: Any, demo: Demo) -> None:
    demo.settings["model"] = "sentiment"
    await page.goto(gateway.url)
    await expect(page.get_by_role("heading", name="Ask sentiment")).to_be_visible()
    await expect(page.locator("#pad")).to_be_hidden()
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
    await page.get_by_label("data, as JSON").fill("[nonsense")
    await page.get_by_role("button", name="Ask").click()
    await expect(page.locator("#json-fault")).not_to_be_empty()
    await page.get_by_label("data, as JSON").fill('["fine"]')
    demo.result = lambda frame, **_: {"type": "result", "id": frame["id"], "data": {"mood": "good"}}  # type: ignore[method-assign]
    await page.get_by_role("button", name="Ask").click()
    await expect(page.locator("#raw")).to_contain_text('"mood": "good"')
    assert demo.asked[-1]["data"] == ["fine"]


async def test_the_models_end_is_seen_and_its_return(page: Page, gateway: Any, demo: Demo) -> None:
    states = iter(["down", "down", "running"])

    async def kill(_: web.Request) -> web.Response:
        return web.json_response({})

    async def state(_: web.Request) -> web.Response:
        return web.json_response({"state": next(states)})

    gateway.routes["POST", "/model/kill"], gateway.routes["GET", "/model"] = kill, state
    demo.settings["demo_url"] = gateway.url
    await page.goto(gateway.url)
    await expect(page.locator("#digit")).to_have_text("7")
    demo.route = "queue"
    await page.get_by_role("button", name="Kill the model").click()
    await expect(page.get_by_role("button", name="Model is down")).to_be_disabled()
    await expect(page.locator("#route")).to_have_text("spilled")
    await expect(page.locator("#trouble")).to_contain_text("The model is back")
    await expect(page.get_by_role("button", name="Kill the model")).to_be_enabled()


async def test_size_and_place_make_no_difference_to_the_model(page: Page, gateway: Any, demo: Demo) -> None:
    await page.goto(gateway.url)

    async def pixels(scale: float, left: float, top: float) -> list[float]:
        circle = [(math.cos(n / 20 * math.tau), math.sin(n / 20 * math.tau)) for n in range(21)]
        stroke = [[left + scale * x, top + scale * y] for x, y in circle]
        script = "(stroke) => import('./drawing.js').then(({pixels}) => pixels([stroke]))"
        return list(await page.evaluate(script, stroke))

    large, small = await pixels(0.45, 0.5, 0.5), await pixels(0.1, 0.2, 0.8)
    assert large == pytest.approx(small, abs=0.13)  # two of a block's sixteen pixels may round differently
    rows = [large[n : n + 8] for n in range(0, 64, 8)]
    assert rows[3][3] == rows[4][4] == 0  # the middle of a ring is empty
    assert min(rows[0][3], rows[7][4], rows[3][0], rows[4][7]) > 0.5  # and it fills the box
    assert json.dumps(large)


async def test_it_can_be_used_with_the_keyboard(page: Page, gateway: Any, demo: Demo) -> None:
    await page.goto(gateway.url)
    await expect(page.locator("#digit")).to_have_text("7")
    demo.label = 2
    await page.get_by_role("button", name="Draw a 2").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#spoken")).to_contain_text("The answer is 2")
    names = "els => els.map((el) => el.labels?.length || el.textContent.trim() || el.ariaLabel ? '' : el.outerHTML)"
    unnamed = await page.locator("button:visible, input:visible, select:visible").evaluate_all(names)
    assert [name for name in unnamed if name] == []
