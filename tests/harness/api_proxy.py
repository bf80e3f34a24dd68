"""Stands between a client and a Kubernetes API server, as the network and a busy server do: refuses writes, and goes silent.

A process of its own: what it cuts off when it ends is nobody's to close. This file is both its program and what starts it.
"""

import asyncio
import json
import sys
import urllib.request
from collections import Counter
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "accept-encoding"}
_CONTROL = "/-/"


class Refusal(NamedTuple):
    """An answer of Kubernetes instead of the API server's own."""

    status: int
    reason: str
    retry_after: int | None = None


class Proxy:
    """The proxy before `target`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._refusals: dict[str, list[Refusal]] = {}
        self._refused: Counter[str] = Counter()
        self._silent: bool | str = False  # of all watches, or of those of one kind

    async def run(self) -> None:
        """Tell where it listens, and go on until killed."""
        app = web.Application(client_max_size=2**24)
        app.router.add_post(_CONTROL, self._control)
        app.router.add_route("*", "/{path:.*}", self._pass)
        runner = web.AppRunner(app, access_log=None)
        connector = aiohttp.TCPConnector(ssl=False, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            told = {"message": "listening", "address": f"http://127.0.0.1:{runner.addresses[0][1]}"}
            sys.stderr.write(json.dumps(told) + "\n")
            await asyncio.Event().wait()

    async def _control(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        for kind, refusals in wanted.get("refuse", {}).items():
            self._refusals[kind] = [Refusal(*one) for one in refusals]
        self._silent = wanted.get("silent", self._silent)
        return web.json_response(self._refused)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        kind = next((kind for kind in self._refusals if f"/{kind}/" in request.path), "")
        if request.method == "PATCH" and self._refusals.get(kind):
            status, reason, after = self._refusals[kind].pop(0)
            self._refused[reason] += 1
            headers = {} if after is None else {"Retry-After": str(after)}
            told = {"kind": "Status", "status": "Failure", "reason": reason, "message": "the proxy's", "code": status}
            return web.json_response(told, status=status, headers=headers)
        watch = request.query.get("watch") == "true"
        if watch and self._is_silent(request):
            await asyncio.Event().wait()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with self._session.request(
            request.method, self._target + request.raw_path, headers=headers, data=await request.read() or None
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            passed = web.StreamResponse(status=answer.status, headers=kept)
            await passed.prepare(request)
            async for chunk in answer.content.iter_any():
                if watch and self._is_silent(request):
                    await asyncio.Event().wait()
                await passed.write(chunk)
            return passed

    def _is_silent(self, request: web.Request) -> bool:
        return self._silent is True or (bool(self._silent) and request.path.endswith(f"/{self._silent}"))


def control(url: str, **wanted: Any) -> dict[str, int]:
    """Tells the proxy at `url`: `refuse` the next PATCHes of objects (plural → refusals, in turn), keep watches `silent`, all
    (True) or those of one kind (its plural).

    Returns how many it has refused so far, by reason.
    """
    request = urllib.request.Request(url + _CONTROL, data=json.dumps(wanted).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        counted: dict[str, int] = json.loads(answer.read())
    return counted


if __name__ == "__main__":
    asyncio.run(Proxy(sys.argv[1]).run())
