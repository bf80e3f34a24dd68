"""A workflow in the console: its stages as it runs, the approval that it waits for, its end, and a page that is reloaded."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Locator, Page, expect

from client.scripted import Connection

DECLARATION = {
    "stages": {
        "fetch": {"step": "fetch"},
        "score": {"model": "scorer", "for_each": "fetch.items"},
        "approval": {"wait_for": "manager", "after": ["score"]},
        "pay": {"gateway": {"topic": "payments", "model": "payer"}, "after": ["approval"]},
    }
}
NOW = 1_700_000_000.0
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}
WIDE = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}


class Office:
    """A gateway before the workflow `order`, played by the test."""

    def __init__(self, gateway: Any, page: Page) -> None:
        self.gateway, self.page = gateway, page
        self.workflow: Any = DECLARATION
        self.seq = -1
        self.frame: dict[str, Any] = {}
        self.connection: Connection
        settings = {"model": "order", "token_url": "/console/token", "version": "0.1"}
        gateway.routes["GET", "/console.json"] = lambda _: self._json(settings)
        gateway.routes["POST", "/console/token"] = lambda _: self._json({"token": "minted"})
        gateway.routes["GET", "/v2/models/order"] = self._metadata

    async def _json(self, body: Any) -> web.Response:
        return web.json_response(body)

    async def _metadata(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer minted"
        metadata = {"name": "order", "platform": "podpair_workflow", "inputs": [], "outputs": []}
        return web.json_response(metadata | ({"workflow": self.workflow} if self.workflow else {}))

    async def begin(self) -> None:
        """Open the page, and ask."""
        await self.page.goto(self.gateway.url)
        self.connection = await self.gateway.welcomed()
        await expect(self.page.locator("#workflow")).to_be_visible()
        await self.ask()

    async def ask(self) -> None:
        await self.page.get_by_label("data, as JSON").first.fill('{"items": 3}')
        await self.page.get_by_role("button", name="Ask", exact=True).click()
        self.frame = await self.connection.infer()
        await self.connection.send({"type": "accepted", "id": self.frame["id"], "route": "queue"})

    async def tell(self, *events: dict[str, Any]) -> None:
        self.seq += 1
        data = [{"time": NOW, **event} for event in events]
        partial = {"type": "partial", "id": self.frame["id"], "seq": self.seq, "data": data}
        await self.connection.send(partial | {"position": f"e.3.{self.seq + 1}"})

    async def end(self, **members: Any) -> None:
        end = {"type": "result", "id": self.frame["id"], "data": {"paid": True}, "model": "order", **members}
        await self.connection.send(end | {"position": "e.3.99"})

    def stage(self, name: str) -> Locator:
        return self.page.locator(".stage", has=self.page.locator(".name", has_text=name))

    async def shows(self, name: str, state: str) -> None:
        await expect(self.stage(name).locator(".state")).to_have_text(state)


@pytest.fixture
def office(gateway: Any, page: Page) -> Office:
    return Office(gateway, page)


def event(stage: str, word: str, **members: Any) -> dict[str, Any]:
    return {"stage": stage, "event": word, **members}


@pytest.mark.parametrize("page_options", [WIDE, PHONE], ids=["desktop", "phone"])
async def test_its_stages_are_shown_as_it_runs(office: Office, page: Page, page_options: dict[str, Any]) -> None:
    await office.begin()
    assert (office.frame["stream"], office.frame["route"]) == (True, "queue")
    await expect(page.locator(".stage .name")).to_have_text(["fetch", "score", "approval", "pay"])
    await expect(page.locator(".stage .kind")).to_have_text(
        ["step fetch", "model scorer", "waits for manager", "model payer behind payments"]
    )
    await office.shows("pay", "not yet")
    await office.tell(event("fetch", "started", attempt=1), event("fetch", "progress", data={"read": 2}))
    await expect(office.stage("fetch").locator(".note")).to_have_text('{"read":2}')
    await office.tell(event("fetch", "retrying", attempt=2, message="the shop was busy"))
    await office.shows("fetch", "tries again, attempt 2")
    await expect(office.stage("fetch").locator(".fault")).to_have_text("the shop was busy")
    await office.tell(event("fetch", "started", attempt=2), event("fetch", "finished", time=NOW + 2.5))
    await office.shows("fetch", "done, attempt 2")
    await expect(office.stage("fetch").locator(".time")).to_have_text("2.5 s")
    await office.tell(
        event("score", "started", of=3),
        *(event("score", "started", index=index, of=3) for index in range(3)),
        event("score", "finished", index=1, of=3),
    )
    await office.shows("score", "running, 1 of 3")
    await expect(office.stage("score").locator("progress")).to_have_js_property("value", 1)
    await expect(page.locator("#workflow .badge")).to_have_text("running")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_a_person_approves_and_it_goes_on(office: Office, page: Page) -> None:
    await office.begin()
    await office.tell(event("approval", "waiting", until=NOW + 60))
    await expect(office.stage("approval").locator(".state")).to_contain_text("waits, until")
    box = office.stage("approval")
    await box.get_by_label("data, as JSON").fill("{nonsense")
    await box.get_by_role("button", name="Send “manager”").click()
    await expect(box.get_by_role("alert")).to_contain_text("JSON")
    await box.get_by_label("data, as JSON").fill('{"approved": true, "by": "me"}')
    await office.tell(event("fetch", "finished"))  # another stage's news leave what is typed alone
    await box.get_by_role("button", name="Send “manager”").click()
    signal = {"type": "signal", "id": office.frame["id"], "name": "manager", "data": {"approved": True, "by": "me"}}
    assert await office.connection.frame() == signal
    await expect(box.get_by_role("button", name="Sent")).to_be_disabled()
    await office.tell(event("approval", "received"), event("approval", "finished"), event("pay", "started"))
    await office.tell(event("score", "skipped"))
    await expect(office.stage("score").locator(".time")).to_be_empty()
    await office.shows("approval", "done")
    await expect(box.locator("form")).to_have_count(0)
    await office.end()
    await expect(page.locator("#workflow .badge")).to_have_text("finished")
    await expect(page.locator("#raw")).to_contain_text('"paid": true')
    await expect(page.locator("#journey")).to_be_hidden()
    await office.shows("pay", "no word of its end")


async def test_it_is_cancelled_and_undone_before_it_ends(office: Office, page: Page) -> None:
    await office.begin()
    await office.tell(event("pay", "finished"))
    await page.get_by_role("button", name="Cancel the run").click()
    assert await office.connection.frame() == {"type": "cancel", "id": office.frame["id"]}
    await office.tell({"event": "cancelling", "time": NOW})
    await expect(page.locator("#workflow .badge")).to_have_text("cancelling")
    await office.tell(event("pay", "compensating"))
    await office.shows("pay", "being undone")
    await office.tell(event("pay", "compensated"))
    await office.end(type="error", code="cancelled", message="cancelled by its client")
    await office.shows("pay", "undone")
    await expect(page.locator("#workflow .badge")).to_have_text("cancelled")
    await expect(page.get_by_role("button", name="Cancel the run")).to_be_disabled()


async def test_a_failure_says_why(office: Office, page: Page) -> None:
    await office.begin()
    failed = event("score", "failed", index=2, of=3, message="no such item")
    await office.tell(event("score", "started", of=3), failed, event("score", "failed", message="item 2 failed"))
    await office.end(type="error", code="upstream", message="stage score failed after 3 attempts: no such item")
    await expect(page.locator("#workflow .badge")).to_have_text(
        "failed: stage score failed after 3 attempts: no such item"
    )
    await office.shows("score", "failed, 1 of 3, 1 failed")


async def test_stages_of_an_unknown_declaration_appear_with_their_events(office: Office, page: Page) -> None:
    office.workflow = None
    await office.begin()
    await office.tell(event("first", "started"))
    await office.tell(event("second", "waiting"))
    await expect(page.locator(".stage .name")).to_have_text(["first", "second"])
    box = office.stage("second")
    await box.get_by_label("what it waits for").fill("go")
    await box.get_by_role("button", name="Send").click()
    assert (await office.connection.frame())["name"] == "go"


async def test_another_run_can_be_looked_at(office: Office, page: Page) -> None:
    await office.begin()
    await office.tell(event("fetch", "failed", message="the first one's"))
    first = office.frame
    await office.ask()
    await office.shows("fetch", "not yet")
    await page.get_by_label("Run").select_option(label="#1")
    await office.shows("fetch", "failed")
    await expect(page.locator("#workflow .badge")).to_have_text("running")
    assert first["id"] != office.frame["id"]


async def test_a_reloaded_page_goes_on_with_its_runs(office: Office, page: Page) -> None:
    await office.begin()
    await office.tell(event("approval", "waiting"))
    await office.shows("approval", "waits")
    opening = asyncio.ensure_future(office.gateway.connection())
    await page.reload()
    office.connection = await opening
    assert office.connection.query == {"resume": "resume-1", "position": "e.3.0"}
    await office.connection.welcome()
    office.seq = -1
    await office.tell(event("approval", "waiting"))  # the log has it still
    await office.stage("approval").get_by_role("button", name="Send “manager”").click()
    assert (await office.connection.frame())["id"] == office.frame["id"]
    await office.end()
    await expect(page.locator("#workflow .badge")).to_have_text("finished")
    await page.reload()
    assert "resume" not in (await office.gateway.welcomed()).query


async def test_a_run_that_cannot_be_gone_on_with_is_let_go(office: Office, page: Page) -> None:
    await office.begin()
    office.gateway.refuse(401, "unauthorized", "the resume token is too old")
    await page.reload()
    assert (await office.gateway.welcomed()).query == {}
    await expect(page.locator("#status")).to_have_attribute("data-state", "open")
