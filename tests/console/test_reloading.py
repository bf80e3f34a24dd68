"""A page that goes and comes back, with the lines of docs/clients.md, in a real browser and before a real pair."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from console.test_other_origins import site, snippet_of  # noqa: F401 - a fixture
from harness.pair import Gateway, Inference, token
from harness.processes import BIN, output_of
from harness.waiting import until

PAGE = """<!doctype html><title>a page</title><script type="module">
import { connect } from "HTTP/podpair.js";
const getToken = () => "TOKEN";
RECIPE
window.pushes = [];
session.addEventListener("push", ({ detail }) => pushes.push(detail.data));
window.session = session;
</script>"""


@pytest.mark.parametrize("claim", [{}, {"sid": "tab"}])
async def test_a_page_that_is_reloaded_has_missed_nothing(
    page: Page, site: tuple[str, Path], inference: Inference, start_gateway: Callable[..., Gateway], claim: dict[str, Any],  # noqa: F811
) -> None:  # fmt: skip
    """With a session that the gateway named, and with one that a claim names."""
    origin, folder = site
    gateway = start_gateway(
        {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "http": {"origins": [origin]}}
    )
    gateway.wait_ready()
    recipe = snippet_of("docs/clients.md", "const kept = JSON.parse", 6).replace(
        "wss://models.example/v1/ws", gateway.ws
    )
    assert gateway.ws in recipe
    assert recipe.rstrip().endswith("});")
    text = PAGE.replace("RECIPE", recipe).replace("HTTP", gateway.url).replace("TOKEN", token(**claim))
    (folder / "index.html").write_text(text)
    (folder / "other.html").write_text("<!doctype html><title>another page</title>")

    async def push(value: Any) -> None:
        kafka = gateway.wait_for_message("embedded Kafka")["kafka"]
        key = await page.evaluate("sessionStorage.getItem('name')")
        command = ("push", "--kafka", kafka, "--session", key, json.dumps(value))
        await asyncio.to_thread(output_of, BIN / "podpair-gateway", *command)

    await page.goto(f"{origin}/index.html")
    await page.wait_for_function("window.session?.state === 'open'")
    await page.evaluate("sessionStorage.setItem('name', session.session)")
    await push("seen")
    await page.wait_for_function("pushes.length === 1")
    await page.goto(f"{origin}/other.html")
    await asyncio.to_thread(until, lambda: gateway.metric("sessions") == 0)
    await push("while it was away")
    await page.goto(f"{origin}/index.html")
    await page.wait_for_function("window.pushes?.length === 1")
    assert await page.evaluate("pushes") == ["while it was away"]
    assert await page.evaluate("session.session === sessionStorage.getItem('name')")
    await page.reload()
    await page.wait_for_function("window.session?.state === 'open'")
    await push("last")
    await page.wait_for_function("pushes.length === 1")
    assert await page.evaluate("pushes") == ["last"]
