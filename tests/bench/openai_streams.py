"""Streamed chat completions through a gateway, beside the model's server asked directly, nginx, and LiteLLM's proxy.

    .venv/bin/python tests/bench/openai_streams.py [--rounds 3] [--streams 64] [--sides direct,podpair,nginx,LiteLLM]

A server of the bench's own (token_server.py) writes tokens, each with the time at which it was written; one process asks for
`--streams` streams at once, from every side in turn. `paced`: 50 tokens a second in each stream, and what a token's way took;
`flat out`: as fast as they are taken. CPU is that of what is in the middle, with its children. Lines go to var/bench, of which
`make bench-report` makes tables.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import yaml

from bench.measuring import cpu_seconds, rss_bytes, spread, tree
from bench.peers.building import CannotBuild, python
from bench.queueing import at
from bench.recording import Recording
from harness.machine import require
from harness.pair import Gateway, token
from harness.processes import Child, free_port
from harness.waiting import until

_RATE = 50  # tokens a second in a stream that is paced
_KEY = "sk-bench"


class Side(NamedTuple):
    """Where streams are asked for."""

    url: str
    headers: dict[str, str]
    pid: int | None  # of what is in the middle


Starter = Callable[[str, Path], AbstractContextManager[Side]]


@contextmanager
def direct(url: str, _: Path) -> Iterator[Side]:
    """Nothing in the middle."""
    yield Side(url, {}, None)


@contextmanager
def podpair(url: str, folder: Path) -> Iterator[Side]:
    """A gateway with OpenAI's API, and its embedded broker."""
    config = {
        "kafka": {"embedded": True},
        "inference": {"url": url, "ready_path": "/health"},
        "openai": {"enabled": True},
        "limits": {"max_direct_in_flight": 1000, "in_flight": 1000},
    }
    gateway = Gateway(folder, config)
    try:
        gateway.wait_ready()
        yield Side(gateway.url, {"Authorization": f"Bearer {token()}"}, gateway.pid)
    finally:
        gateway.stop()


@contextmanager
def nginx(url: str, folder: Path) -> Iterator[Side]:
    """nginx with one worker, which passes each part on as it comes."""
    (program,) = require("nginx")
    port = free_port()
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    target = url.removeprefix("http://")
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; {temporary}\n upstream model {{ server {target}; keepalive 256; }}\n"
        f" server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://model; proxy_http_version 1.1;\n"
        f' proxy_set_header Connection ""; proxy_buffering off; }} }} }}\n'
    )
    yield from _child(Child(program, "-p", folder, "-c", file, "-e", "stderr"), f"http://127.0.0.1:{port}", {})


@contextmanager
def litellm(url: str, folder: Path) -> Iterator[Side]:
    """LiteLLM's proxy with one worker."""
    port, file = free_port(), folder / "litellm.yaml"
    of = {"model": "openai/m", "api_base": f"{url}/v1", "api_key": _KEY}
    listed = {"model_list": [{"model_name": "m", "litellm_params": of}], "general_settings": {"master_key": _KEY}}
    file.write_text(yaml.safe_dump(listed))
    # Its table of prices comes with it: it asks no server for a newer one.
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = [
        *python("litellm_server", "server.py"),
        "--config",
        str(file),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    bearer = {"Authorization": f"Bearer {_KEY}"}
    yield from _child(Child(*command, "--telemetry", "False", env=local), f"http://127.0.0.1:{port}", bearer)


SIDES: dict[str, Starter] = {"direct": direct, "podpair": podpair, "nginx": nginx, "LiteLLM": litellm}


def _child(child: Child, url: str, headers: dict[str, str]) -> Iterator[Side]:
    try:
        until(lambda: _answers(url, headers), lambda: "\n".join(child.lines[-20:]), timeout=180)
        yield Side(url, headers, child.pid)
    finally:
        child.stop()


def _answers(url: str, headers: dict[str, str]) -> bool:
    async def ask() -> bool:
        async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{url}/v1/models") as response:
            return response.status == 200

    try:
        return asyncio.run(ask())
    except aiohttp.ClientError:
        return False


async def stream(http: aiohttp.ClientSession, side: Side, tokens: int, rate: int, ways: list[float]) -> float:
    """Read one stream; returns milliseconds to its first token, and notes those that each token was on its way."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": f"{tokens} {rate}"}]}
    began, first, seen = time.monotonic_ns(), 0.0, 0
    async with http.post(f"{side.url}/v1/chat/completions", json=body, headers=side.headers) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            if choices and (text := choices[0]["delta"].get("content")):
                now = time.monotonic_ns()
                first = first or (now - began) / 1e6
                for written in text.split():  # what is in the middle may join tokens
                    seen += 1
                    ways.append((now - int(written)) / 1e6)
    assert seen == tokens, f"{seen} of {tokens} tokens"
    return first


async def measure(side: Side, streams: int, tokens: int, rate: int) -> dict[str, float]:
    """Ask for so many streams at once."""
    pids = [] if side.pid is None else tree(side.pid)
    before, ways = sum(map(cpu_seconds, pids)), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await stream(http, side, 1, 0, [])
        began = time.monotonic()
        firsts = await asyncio.gather(*[stream(http, side, tokens, rate, ways) for _ in range(streams)])
        took = time.monotonic() - began
    firsts.sort()
    ways.sort()
    found = {"tokens/s": len(ways) / took}
    if rate:
        found |= {
            "first token p50 ms": at(firsts, 0.5),
            "a token's way p50 ms": at(ways, 0.5),
            "p99 ms": at(ways, 0.99),
        }
    if pids:
        found["CPU µs a token"] = (sum(map(cpu_seconds, pids)) - before) * 1e6 / len(ways)
        found["MB"] = sum(map(rss_bytes, pids)) / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--sides", default=",".join(SIDES))
    options = parser.parse_args()
    recording = Recording("openai-streams")
    with ExitStack() as stack:
        port = free_port()
        server = Child(sys.executable, Path(__file__).with_name("token_server.py"), str(port))
        stack.callback(server.stop)
        url = f"http://127.0.0.1:{port}"
        until(lambda: _answers(url, {}), lambda: "\n".join(server.lines))
        sides = {}
        for name in options.sides.split(","):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            try:
                sides[name] = stack.enter_context(SIDES[name](url, folder))
            except CannotBuild as error:
                recording.left_out({"through": name}, str(error))
        for how, rate, streams in (
            ("paced", _RATE, options.streams),
            ("one", _RATE, 1),
            ("flat out", 0, options.streams),
        ):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, side in sides.items():
                    found[name].append(asyncio.run(measure(side, streams, options.tokens, rate)))
            for name, lines in found.items():
                row = {"tokens come": how, "streams": streams, "through": name}
                recording.row(row, {key: spread([line[key] for line in lines]) for key in lines[0]})
    recording.close()


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    main()
