"""The requests that somebody waits for, and the pushes until somebody takes them."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from podpair.client.errors import PodpairError, error_from
from podpair.client.events import Event, Gap, Push, Result
from podpair.client.protocol import Request


class Call:
    """One request and the task that waits for it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._partials: deque[Event] = deque()
        self._news = asyncio.Event()

    def feed(self, event: Event) -> None:
        """An event of this request has come."""
        match event["type"]:
            case "partial":
                self._partials.append(event)
            case "result" if not self.result.done():
                self.result.set_result(Result.from_event(event, self.request.route))
            case "error":
                self.fail(error_from(event))
        self._news.set()

    def fail(self, error: PodpairError) -> None:
        """There will be no answer."""
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # a stream may be left before it comes to this: no warning then
        self._news.set()

    async def partials(self) -> AsyncIterator[Event]:
        """The partial events until the terminal one."""
        while True:
            while self._partials:
                yield self._partials.popleft()
            if self.result.done():
                return
            self._news.clear()
            await self._news.wait()


class Stream:
    """The parts of a streamed answer: `async for part in stream`; leaving the loop early cancels the request.

    After the loop `result` is the terminal result, which has the whole answer. A request that had to be sent again runs
    again: parts up to the last `seq` already given are left out. Where two runs differ (sampling) ask for it with
    `resend=False`. Of a text whose last parts got lost with a connection the rest is given from the result.
    """

    def __init__(self, begin: Callable[[], AbstractAsyncContextManager[Call]]) -> None:
        self._begin = begin
        #: The terminal result; None until the stream has ended.
        self.result: Result | None = None

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        given: list[Any] = []
        async with self._begin() as call:
            async for event in call.partials():
                given.append(event.get("data"))
                yield given[-1]
            self.result = await call.result
        rest = _rest(given, self.result.data)
        if rest:
            yield rest


def _rest(given: list[Any], data: Any) -> str:
    """What of the whole text was not given; empty where that can't be told."""
    whole = next(iter(data.values())) if isinstance(data, dict) and len(data) == 1 else None
    if not isinstance(whole, str) or not all(isinstance(part, str) for part in given):
        return ""
    text = "".join(given)
    return whole[len(text) :] if whole.startswith(text) else ""


class Inbox:
    """Pushes in order, bounded: past `limit` the oldest are dropped and declared as a gap."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pushes: deque[Push] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: PodpairError | None = None

    def put(self, push: Push) -> Gap | None:
        """Keep a push; the gap that it made, where the inbox was full."""
        dropped = self._pushes.popleft() if len(self._pushes) >= self._limit else None
        self._pushes.append(push)
        self._news.set()
        return Gap(None, dropped.position, "buffer") if dropped else None

    def end(self, error: PodpairError | None) -> None:
        """Nothing more will come."""
        self._ended, self._error = True, error
        self._news.set()

    async def __aiter__(self) -> AsyncGenerator[Push, None]:
        while True:
            while self._pushes:
                yield self._pushes.popleft()
            if self._ended:
                if self._error is not None:
                    raise self._error
                return
            self._news.clear()
            await self._news.wait()
