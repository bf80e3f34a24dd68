"""A receiver of webhooks that does what the test says, and checks each signature with the library of Standard Webhooks."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web
from standardwebhooks import Webhook

from harness.waiting import soon

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMhISE="


class Hook(NamedTuple):
    """What came."""

    path: str
    id: str
    event: dict[str, Any]
    time: float  # monotonic
    attempt: int  # of this id


Behaviour = Callable[[Hook], Awaitable[web.Response | None]]


class Receiver:
    """Answers 204 unless `behave` returns another answer. `taken` has what was answered with 2xx, in order."""

    def __init__(self) -> None:
        self.behave: Behaviour | None = None
        self.seen: list[Hook] = []
        self.taken: list[Hook] = []
        self.open = 0  # requests that wait for their answer
        self.most_open = 0
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._attempts: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen; again at the same port, after `stop`."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.text()
        Webhook(SECRET).verify(body, dict(request.headers))
        name = request.headers["webhook-id"]
        self._attempts[name] += 1
        hook = Hook(request.path, name, json.loads(body), time.monotonic(), self._attempts[name])
        self.seen.append(hook)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            answer = await self.behave(hook) if self.behave is not None else None
        finally:
            self.open -= 1
        if answer is None or answer.status < 300:
            self.taken.append(hook)
        return answer or web.Response(status=204)

    def data(self) -> list[Any]:
        """The data of the pushes that were taken, in order."""
        return [hook.event["data"]["data"] for hook in self.taken]

    def counts(self) -> Counter[Any]:
        """How often each push was taken."""
        return Counter(self.data())

    async def has(self, number: int, timeout: float = 60.0) -> None:
        """Wait until so many were taken."""
        await soon(lambda: len(self.taken) >= number, lambda: f"{len(self.taken)} of {number} have come", timeout)


async def hang(_: Hook) -> web.Response | None:
    """Never answer."""
    # Nothing to wait for: its caller gives up, or the test ends.
    await asyncio.sleep(3600)
    return None
