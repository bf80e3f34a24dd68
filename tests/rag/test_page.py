"""`make rag` as its user meets it: documents go in, and a page on which a question is answered with citations."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright.async_api import async_playwright, expect

from harness.processes import ROOT, Child
from harness.rag import EXAMPLE, database_folder, environment, model_repository

pytestmark = pytest.mark.process


@pytest.fixture
def rag() -> Iterator[Child]:
    model_repository()
    with database_folder() as folder:
        # It speaks on standard output; the harness reads standard error.
        command = (sys.executable, EXAMPLE / "rag.py", "--port", "0", "--environment", environment(),
                   "--data", folder.parent, ROOT / "docs/proxies.md", ROOT / "docs/producers.md")  # fmt: skip
        child = Child("sh", "-c", 'exec "$@" >&2', "sh", *command)
        yield child
        child.stop()


async def test_a_question_on_the_page_is_answered_with_citations(rag: Child, require: Callable[[str], str]) -> None:
    line = await asyncio.to_thread(rag.wait_for, lambda line: line.startswith("podpair rag: ready"), 180.0)
    assert any(line.startswith("  docs/proxies.md: stored") for line in rag.lines)
    address = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert address is not None
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=require("chromium"), args=["--no-sandbox"])
        page = await chromium.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
        await page.goto(address[0])
        await expect(page.locator("#state")).to_have_text("ready", timeout=30_000)
        await page.get_by_role("textbox").fill("Are sticky sessions needed at the load balancer?")
        await page.get_by_role("button", name="Ask").click()
        await expect(page.locator("#state")).to_contain_text("answered in", timeout=30_000)
        await expect(page.locator("#answer")).to_contain_text("sticky sessions aren't needed")
        await expect(page.locator("#passages > li")).to_have_count(5)
        cited = await page.locator("#answer a").first.get_attribute("href")
        await expect(page.locator(str(cited))).to_contain_text("docs/proxies.md: Proxies before the gateway")
        link = await page.locator(f"{cited} a").get_attribute("href")
        assert (await page.request.get(f"{address[0]}{link}")).ok
        assert faults == []
        await chromium.close()
    os.kill(rag.pid, signal.SIGINT)
    assert await asyncio.to_thread(rag.process.wait, 60) == 0
    assert "podpair rag: stopped" in rag.lines
