"""`make demo` as its user meets it: one line, a page that answers, a model that may be killed, and a clean end."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator

import pytest
from playwright.async_api import Page, expect

from harness.processes import ROOT, Child


@pytest.fixture
def demo() -> Iterator[Child]:
    # It speaks on standard output; the harness reads standard error.
    child = Child("sh", "-c", 'exec "$@" >&2', "sh", sys.executable, ROOT / "examples" / "demo.py", "--port", "0")
    yield child
    child.stop()


async def test_the_demo_answers_survives_its_model_and_stops(page: Page, demo: Child) -> None:
    line = await asyncio.to_thread(demo.wait_for, lambda line: line.startswith("podpair demo: ready"))
    await asyncio.to_thread(demo.wait_for, lambda line: line.strip().startswith("stop"))
    address = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert address is not None
    await page.goto(address[0])
    await page.get_by_role("button", name="Draw a 4").click()
    await expect(page.locator("#digit")).to_have_text("4")

    await page.get_by_role("button", name="Kill the model").click()
    await asyncio.to_thread(demo.wait_for, lambda line: "is not ready" in line)
    await page.get_by_role(
        "button", name="Draw a 6"
    ).click()  # it waits in Kafka, and is answered when the model is back
    await expect(page.locator("#digit")).to_have_text("6", timeout=60_000)
    await expect(page.locator("#open-count")).to_have_text("0")

    os.kill(demo.pid, signal.SIGINT)
    assert await asyncio.to_thread(demo.process.wait, 30) == 0
    assert any(line == "podpair demo: stopped" for line in demo.lines)
    await expect(page.locator("#status")).not_to_have_attribute("data-state", "open")
