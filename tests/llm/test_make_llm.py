"""`make llm` with the real model: it answers OpenAI's API token by token, and an answer that was cut goes on as it would have."""

import asyncio
import json
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from harness.cache import exclusive
from harness.machine import fetch, require
from harness.processes import BIN, ROOT, Child, output_of

pytestmark = [pytest.mark.process, pytest.mark.slow]

EXAMPLE = ROOT / "examples/llm"
ENVIRONMENT = ROOT / ".cache/llm"
ASKED = [{"role": "user", "content": "Why is the sky blue?"}]


@dataclass
class Client:
    """Asks the gateway at `url` with a token."""

    url: str
    key: str

    def ask(self, path: str, body: object = None) -> tuple[int, list[str]]:
        """Return the status of the answer, and its lines."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=120) as answer:
                return answer.status, answer.read().decode().splitlines()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().splitlines()

    def events(self, path: str, body: object) -> list[dict[str, Any]]:
        """Return the events of a stream."""
        status, lines = self.ask(path, body)
        assert status == 200, lines
        return [json.loads(line[5:]) for line in lines if line.startswith("data:") and "[DONE]" not in line]


@pytest.fixture(scope="module")
def llm() -> Iterator[Child]:
    """The example, started as its target starts it; llama.cpp is built first where it isn't there."""
    make, _ = require("make", "c++")
    with exclusive(ENVIRONMENT):
        fetch("PyPI", make, ENVIRONMENT.relative_to(ROOT) / ".installed", cwd=ROOT)
    script = (sys.executable, EXAMPLE / "llm.py", "--environment", ENVIRONMENT, "--port", "0")
    child = Child("sh", "-c", 'exec "$@" >&2', "sh", *script)  # the harness reads standard error
    yield child
    child.stop()


@pytest.fixture(scope="module")
def client(llm: Child) -> Client:
    line = llm.wait_for(lambda line: line.startswith("podpair llm: ready"))
    address = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert address is not None
    key = output_of(BIN / "podpair-gateway", "token", "--config", EXAMPLE / "llm.yaml").strip()
    return Client(address[0], key)


def parts(client: Client, **parameters: object) -> tuple[list[str], dict[str, object]]:
    """The texts of a greedy answer's chunks, and its reason and usage."""
    body = {
        "model": "llm", "messages": ASKED, "stream": True, "temperature": 0, "max_tokens": 30,
        "stream_options": {"include_usage": True},
    } | parameters  # fmt: skip
    texts, told = [], dict[str, object]()
    for chunk in client.events("/v1/chat/completions", body):
        told |= {"usage": chunk["usage"]} if chunk.get("usage") else {}
        for choice in chunk["choices"]:
            texts.append(choice["delta"].get("content") or "")
            told |= {"reason": choice["finish_reason"]} if choice.get("finish_reason") else {}
    return texts, told


@pytest.mark.timeout(1500)  # llama.cpp may have to be built
def test_a_greedy_answer_is_the_same_each_time(client: Client) -> None:
    texts, told = parts(client)
    assert "sky" in "".join(texts)
    assert len([text for text in texts if text]) > 10, "it comes token by token"
    assert told["reason"] == "length"
    usage = told["usage"]
    assert isinstance(usage, dict)
    assert usage["completion_tokens"] == 30
    assert parts(client)[0] == texts


def test_a_stop_sequence_ends_it_and_is_no_part_of_it(client: Client) -> None:
    whole = "".join(parts(client)[0])
    stop = whole.split()[5] + " " + whole.split()[6]  # of more than one token
    texts, told = parts(client, stop=[stop])
    assert "".join(texts) == whole[: whole.index(stop)]
    assert told["reason"] == "stop"


def test_a_seed_repeats_an_answer_and_another_gives_another(client: Client) -> None:
    first, again, other = ("".join(parts(client, temperature=1.5, seed=seed)[0]) for seed in (7, 7, 8))
    assert first == again != other


def test_what_it_cannot_do_is_refused(client: Client) -> None:
    body = {"model": "llm", "messages": ASKED, "frequency_penalty": 1}
    status, lines = client.ask("/v1/chat/completions", body)
    assert (status, "frequency_penalty" in lines[0]) == (400, True)


@pytest.mark.parametrize("seen", [1, 10, 20])
@pytest.mark.parametrize("wish", [{"temperature": 0.0}, {"temperature": 0.9, "seed": 7}], ids=["greedy", "seeded"])
def test_going_on_from_its_first_tokens_gives_the_rest(client: Client, seen: int, wish: dict[str, float]) -> None:
    texts, _ = parts(client, **wish)
    whole, head = "".join(texts), "".join([text for text in texts if text][:seen])
    parameters = {"task": "chat", "max_tokens": 30, "resume": head, **wish}
    body = {"input": json.dumps(ASKED), "parameters": parameters}
    rest = [part["content"] for part in client.events("/v2/models/llm/generate_stream", body)]
    assert head + "".join(rest) == whole


def test_clients_that_leave_give_their_contexts_back(client: Client) -> None:
    body = {"model": "llm", "messages": ASKED, "stream": True, "max_tokens": 1500, "temperature": 0}
    headers = {"Authorization": f"Bearer {client.key}", "Content-Type": "application/json"}
    for _ in range(5):  # more than there are contexts
        request = urllib.request.Request(client.url + "/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.readline().startswith(b"data:")
    assert parts(client, max_tokens=3)[1]["reason"] == "length"


async def test_it_stops_in_order(client: Client, llm: Child) -> None:
    assert json.loads(client.ask("/v1/models")[1][0])["data"][0]["id"] == "llm"
    llm.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(llm.process.wait, 60) == 0
    assert "podpair llm: stopped" in llm.lines
