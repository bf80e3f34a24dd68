"""LangChain's ChatOpenAI at two gateways, with chat completions and with Responses."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from harness import environments
from harness.openai_server import OpenAIServer
from harness.pair import Gateway, token
from harness.processes import output_of

pytestmark = [pytest.mark.process, pytest.mark.slow]

OUTSIDE = Path(__file__).parents[1] / "outside"
SEEN: dict[str, Any] = {
    "chat": ["to be", "stop", 4],
    "stream": ["to be ", 4],
    "tools": [["look", {"a": 1}]],
    "streamed tools": [["look", {"a": 1}]],
    "fails": ["APIError", None, "f"],
    "cut": ["APIError", None, "bad_gateway"],
    "refused": ["ConflictError", 409, None],
    "key": ["OpenAIAuthenticationError", 401, "invalid_api_key"],
    "repeated": ["OpenAIAPIError", 503, "overloaded"],
    "vectors": [[3.0, 0.5], [1.0, 0.5]],
    "response": ["to be ", "completed", 4],
    "typed": "to be or ",
    "next": "more ",
}


@pytest.mark.timeout(600)  # its packages may have to be fetched
async def test_langchain(two_gateways: tuple[Gateway, Gateway], server: OpenAIServer) -> None:
    python = environments.python(OUTSIDE / "langchain.lock")
    urls = [gateway.url + "/v1" for gateway in two_gateways]
    seen = json.loads(await asyncio.to_thread(output_of, python, OUTSIDE / "langchain_calls.py", *urls, token()))
    assert seen == SEEN
    assert [body["messages"][-1]["content"] for body in server.asked if "messages" in body].count("!status:503") == 3
