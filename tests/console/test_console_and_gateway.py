"""The console in front of a real pair: what `make demo` shows."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect

from harness.pair import Gateway, Inference
from harness.processes import BIN, output_of


@pytest.fixture
def demo(start_gateway: Callable[..., Gateway], inference: Inference) -> Gateway:
    console = {"enabled": True, "mint_tokens": True}
    config = {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "console": console}
    gateway = start_gateway(config)
    gateway.wait_ready()
    return gateway


async def push(gateway: Gateway, session: str, data: Any) -> None:
    """From another process, as the page says it."""
    kafka = json.loads(gateway.get("/console.json")[1])["kafka"]
    command = ("push", "--kafka", kafka, "--session", session, json.dumps(data))
    await asyncio.to_thread(output_of, BIN / "podpair-gateway", *command)


async def test_a_person_draws_a_digit_cuts_the_wire_and_misses_nothing(page: Page, demo: Gateway) -> None:
    await page.goto(f"{demo.url}/?session=someone")
    await expect(page.locator("#digit")).to_have_text("3")  # the sample that is there at first
    box = await page.locator("#pad").bounding_box()
    assert box is not None
    for number, (x, y) in enumerate([(0.3, 0.2), (0.7, 0.2), (0.45, 0.85)]):
        await page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=10)
        await (page.mouse.down() if number == 0 else asyncio.sleep(0))
    await page.mouse.up()
    await expect(page.locator("#digit")).to_have_text("7")
    await expect(page.locator("#route")).to_have_text("direct")

    await page.get_by_role("radio", name="queue").check()
    await page.get_by_role("button", name="Draw a 2").click()
    await expect(page.locator("#digit")).to_have_text("2")
    await expect(page.locator("#route")).to_have_text("queued")
    await push(demo, "console/someone", {"hello": "world"})
    await expect(page.locator("#pushes li").first).to_have_text('{"hello":"world"}')

    await page.get_by_role("button", name="Cut the wire").click()
    await push(demo, "console/someone", {"while you": "were away"})
    await page.get_by_role("button", name="Draw a 5").click()
    await expect(page.locator("#tray .posted").nth(1)).to_be_visible()
    # It mends itself after a few seconds.
    await expect(page.locator("#status")).to_have_attribute("data-state", "open", timeout=60_000)
    await expect(page.locator("#digit")).to_have_text("5")
    await expect(page.locator("#route")).to_have_text("kept in Kafka, come by resume")
    await expect(page.locator("#pushes li").first).to_have_text('{"while you":"were away"}by resume')
    await expect(page.locator("#open-count")).to_have_text("0")
    await expect(page.locator("#s-resumed")).to_have_text("1 time")
