"""Fixtures of the browser's tests: Chromium, and a gateway that does what the test says and serves the console's files."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

import podpair.gateway

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


def _scripted() -> ModuleType:
    """The client's scripted gateway: pytest's importlib mode puts no folder of tests on the path."""
    name = "podpair_scripted_gateway"
    if name not in sys.modules:
        path = Path(__file__).parent.parent / "client" / "scripted.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
async def gateway() -> AsyncIterator[Any]:
    async with _scripted().ScriptedGateway(FILES) as server:
        server.headers = {"Content-Security-Policy": POLICY}
        yield server


@pytest.fixture
async def browser(require: Callable[[str], str]) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=require("chromium"), args=FLAGS)
        yield chromium
        await chromium.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that fails the test when it throws, logs an error, or asks another host for anything."""
    page = await browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
    page.on("console", lambda message: faults.append(message.text) if "Security" in message.text else None)
    page.on("request", lambda request: None if "//127.0.0.1:" in request.url else faults.append(f"asked {request.url}"))
    yield page
    await page.close()
    assert not faults
