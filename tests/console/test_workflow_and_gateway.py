"""A workflow in the console in front of a real gateway: it is asked, approved, and taken up by a page that is reloaded."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.async_api import Page, expect

from harness.fake_workflows import FakeWorkflows
from harness.kafka import Broker
from harness.pair import Gateway

DECLARATION = {
    "stages": {
        "price": {"model": "double", "for_each": "request", "input": "[item]"},
        "approval": {"wait_for": "manager", "after": ["price"]},
    },
    "output": "{prices: price[].y, by: approval.by}",
}


@pytest.fixture
def server() -> Iterator[FakeWorkflows]:
    server = FakeWorkflows()
    server.declare("order", DECLARATION)
    yield server
    server.close()


@pytest.fixture
def gateway(
    start_gateway: Callable[..., Gateway], broker: Broker, names: dict[str, Any], server: FakeWorkflows
) -> Gateway:
    config = {
        "kafka": {"bootstrap_servers": broker.address},
        "inference": {"url": server.url},
        "workflows": {"enabled": True},
        "console": {"enabled": True, "mint_tokens": True, "model": "order"},
    }
    gateway = start_gateway(config | names)
    gateway.wait_ready()
    return gateway


async def test_a_person_starts_one_reloads_the_page_and_approves(page: Page, gateway: Gateway) -> None:
    await page.goto(gateway.url)
    await expect(page.locator(".stage .kind")).to_have_text(["model double", "waits for manager"])
    await page.get_by_label("data, as JSON").first.fill("[1, 2, 3]")
    await page.get_by_role("button", name="Ask", exact=True).click()
    states = page.locator(".stage .state")
    await expect(states.nth(0)).to_have_text("done, 3 of 3")
    await expect(states.nth(1)).to_contain_text("waits, until")

    await page.reload()
    await expect(states.nth(0)).to_have_text("done, 3 of 3")
    await expect(page.locator("#workflow .badge")).to_have_text("running")
    await page.locator(".stage textarea").fill('{"by": "me"}')
    await page.get_by_role("button", name="Send “manager”").click()
    await expect(states.nth(1)).to_have_text("done")
    await expect(page.locator("#workflow .badge")).to_have_text("finished")
    await expect(page.locator("#raw")).to_contain_text('"by": "me"')
