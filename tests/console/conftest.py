"""Fixtures of the browser's tests: Chromium, and a gateway that does what the test says and serves the console's files."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

import podpair.gateway
from client.scripted import ScriptedGateway

expect.set_options(timeout=30_000)  # milliseconds; its own 5 s are not enough for a browser on a busy machine
FILES = Path(podpair.gateway.__file__).parent / "console"
#: What the gateway sends with these files: the console must do without inline scripts, styles and other hosts.
POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway(FILES) as server:
        server.headers = {"Content-Security-Policy": POLICY}
        yield server


@pytest.fixture
async def browser(require: Callable[[str], str]) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=require("chromium"), args=FLAGS)
        yield chromium
        await chromium.close()


@pytest.fixture
def page_options() -> dict[str, Any]:
    """How a test's page is opened: the size, the theme; a test overrides it with a parameter of that name."""
    return {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}


@pytest.fixture
async def page(browser: Browser, page_options: dict[str, Any]) -> AsyncIterator[Page]:
    """A page that fails the test when it throws, logs an error, or asks another host for anything."""
    page = await browser.new_page(**page_options)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
    page.on("console", lambda message: faults.append(message.text) if "Security" in message.text else None)
    page.on("request", lambda request: None if "//127.0.0.1:" in request.url else faults.append(f"asked {request.url}"))
    yield page
    await page.close()
    assert not faults
