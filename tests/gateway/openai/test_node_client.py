"""OpenAI's own client for Node.js at two gateways."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from harness import javascript
from harness.openai_server import OpenAIServer
from harness.pair import Gateway, token
from harness.processes import output_of

pytestmark = pytest.mark.process

FOLDER = Path(__file__).parents[1] / "outside/openai_node"
SEEN: dict[str, Any] = {
    "models": ["llm"],
    "chat": ["to be", "stop"],
    "stream": ["to be ", 4],
    "helper": "to be or ",
    "vectors": [[3, 0.5], [1, 0.5]],
    "refused": [409, None, "made_up", True],
    "key": [401, "invalid_api_key", "authentication_error", True],
    "fails": [None, "bad_gateway", "server_error", True],
    "repeated": [503, "overloaded", "made_up", True],
    "response": ["completed", "to be ", 4],
    "elsewhere": True,
    "types": ["response.created", "response.completed"],
    "resumed": True,
    "helper of responses": "to be or ",
    "helper resumes": "to be ",
    "parked": "queued",
    "ended": ["completed", "five "],
    "items": ["three", "two", "one"],
    "cancel": [400, "invalid_request", "invalid_request_error", True],
    "deleted": [404, "not_found", "invalid_request_error", True],
}


@pytest.mark.timeout(600)  # its packages may have to be fetched
async def test_openais_client_for_node(two_gateways: tuple[Gateway, Gateway], server: OpenAIServer) -> None:
    packages = javascript.packages(FOLDER / "package-lock.json")
    script = packages / "calls.mjs"  # beside its packages, where Node.js looks for them
    script.write_bytes((FOLDER / "calls.mjs").read_bytes())
    urls = [gateway.url + "/v1" for gateway in two_gateways]
    seen = json.loads(await asyncio.to_thread(output_of, javascript.node(), script, *urls, token()))
    assert seen == SEEN
    assert [body["messages"][-1]["content"] for body in server.asked if "messages" in body].count("!status:503") == 3
