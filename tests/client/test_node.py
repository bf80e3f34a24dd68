"""podpair.js in Node.js, from a folder of its user's, as docs/clients.md has it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from client.javascript_folder import user_folder
from harness.machine import require
from harness.pair import Gateway, token
from harness.processes import output_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: podpair.js and its modules, the program, and `ws`."""
    return user_folder(tmp_path, "connect.mjs")


async def run(folder: Path, *arguments: str, node_options: str = "") -> dict[str, str]:
    """What the program says; it must have ended well, whatever became of its session."""
    (node,) = require("node")
    options = {"NODE_OPTIONS": node_options}
    said: dict[str, str] = json.loads(
        await asyncio.to_thread(output_of, node, "connect.mjs", *arguments, cwd=folder, env=options)
    )
    return said


async def has_own(folder: Path) -> bool:
    (node,) = require("node")
    return (await asyncio.to_thread(output_of, node, "-p", "typeof WebSocket", cwd=folder)).strip() == "function"


async def test_with_the_websocket_of_a_package_it_is_answered(folder: Path, pair: Gateway) -> None:
    for address in (pair.url, pair.ws, f"{pair.url}/"):
        assert "label" in await run(folder, address, token(), "ws")
    if await has_own(folder):
        assert "label" in await run(folder, pair.url, token())


async def test_a_refusal_is_the_typed_error_and_ends_no_process(folder: Path, pair: Gateway) -> None:
    """A WebSocket of `ws` throws an error that nobody listens for."""
    said = await run(folder, pair.url, "none", "ws")
    assert (said["name"], "token" in said["message"]) == ("Unauthorized", True)


@pytest.mark.process
async def test_nobody_there(folder: Path, unused_tcp_port_factory: Callable[[], int]) -> None:
    said = await run(folder, f"http://127.0.0.1:{unused_tcp_port_factory()}", token(), "ws")
    assert said["name"] == "Unreachable"


async def test_without_any_it_says_what_to_pass(folder: Path, pair: Gateway) -> None:
    options = "--no-experimental-websocket" if await has_own(folder) else ""
    said = await run(folder, pair.url, token(), node_options=options)
    assert said["name"] == "Invalid"
    assert "WebSocket" in said["message"]
    assert '"ws"' in said["message"]
