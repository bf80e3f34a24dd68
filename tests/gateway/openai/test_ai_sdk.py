"""The Vercel AI SDK at two gateways: chat completions by its provider for compatible servers, Responses by that for OpenAI."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from harness import javascript
from harness.openai_server import OpenAIServer
from harness.pair import Gateway, token
from harness.processes import output_of

pytestmark = [pytest.mark.process, pytest.mark.slow]

FOLDER = Path(__file__).parents[1] / "outside/ai_sdk"
SEEN: dict[str, Any] = {
    "chat": ["to be", "stop", 4],
    "stream": ["to be ", [], "stop", 4],
    "fails": ["to ", ["told to fail"]],
    "cut": ["to ", 1],
    "tools": [["look", {"a": 1}]],
    "vectors": [[3, 0.5], [1, 0.5]],
    "refused": ["AI_APICallError", 409, True, 1],
    "key": ["AI_APICallError", 401, False, 1],
    "repeated": ["AI_APICallError", 503, True, 3],
    "response": ["to be ", "stop", 4],
    "typed": ["to be or ", [], "stop"],
    "id": True,
    "next": "more ",
}


@pytest.mark.timeout(600)  # its packages may have to be fetched
async def test_the_ai_sdk(two_gateways: tuple[Gateway, Gateway], server: OpenAIServer) -> None:
    packages = javascript.packages(FOLDER / "package-lock.json")
    script = packages / "calls.mjs"  # beside its packages, where Node.js looks for them
    script.write_bytes((FOLDER / "calls.mjs").read_bytes())
    urls = [gateway.url + "/v1" for gateway in two_gateways]
    seen = json.loads(await asyncio.to_thread(output_of, javascript.node(), script, *urls, token()))
    assert seen == SEEN
    assert [body["messages"][-1]["content"] for body in server.asked if "messages" in body].count("!status:503") == 3
