"""Calls that are awaited, streams, and the inbox of pushes."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar

from podpair.client.errors import PodpairError, error_from
from podpair.client.events import Event, Gap, Result
from podpair.client.protocol import Request


class Call:
    """One request and the task that waits for it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Result] = loop.create_future()
        #: Done when the gateway has accepted it.
        self.accepted: asyncio.Future[None] = loop.create_future()
        self._partials: deque[Event] = deque()
        self._news = asyncio.Event()

    def feed(self, event: Event) -> None:
        """Take an event of this request."""
        match event["type"]:
            case "accepted" if not self.accepted.done():
                self.accepted.set_result(None)
            case "partial":
                self._partials.append(event)
            case "result" if not self.result.done():
                self.result.set_result(Result.from_event(event, self.request.route))
            case "error":
                self.fail(error_from(event))
        self._news.set()

    def fail(self, error: PodpairError) -> None:
        """End the call with `error`: there will be no answer."""
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # a stream may be left before it comes to this: no warning then
        self._news.set()

    async def partials(self) -> AsyncIterator[Event]:
        """Iterate over the partial events until the terminal one."""
        while True:
            while self._partials:
                yield self._partials.popleft()
            if self.result.done():
                return
            self._news.clear()
            await self._news.wait()


class Stream:
    """The chunks of a streamed answer: `async for chunk in stream`; leaving the loop early cancels the request.

    After the loop `result` is the terminal result, which has the whole answer. A request that had to be sent again runs
    again: chunks up to the last `seq` already given are left out. If two runs differ (sampling) ask with
    `resend=False`. If the last chunks of a text were lost with a connection, the rest is given from the result.
    """

    def __init__(self, begin: Callable[[], AbstractAsyncContextManager[Call]]) -> None:
        self._begin = begin
        self.result: Result | None = None
        """The terminal result; None until the stream has ended."""

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
    """Return the rest of the text that was not given; empty if that can't be known."""
    whole = next(iter(data.values())) if isinstance(data, dict) and len(data) == 1 else None
    if not isinstance(whole, str) or not all(isinstance(part, str) for part in given):
        return ""
    text = "".join(given)
    return whole[len(text) :] if whole.startswith(text) else ""


class _Placed(Protocol):
    @property
    def position(self) -> str | None: ...


T = TypeVar("T", bound=_Placed)


class Inbox(Generic[T]):
    """Pushes, or publications, in order, bounded: past `limit` the oldest are dropped and declared as a gap."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pushes: deque[T] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: PodpairError | None = None

    def put(self, push: T, channel: str | None = None) -> Gap | None:
        """Store a push. Returns the gap that it made if the inbox was full."""
        dropped = self._pushes.popleft() if len(self._pushes) >= self._limit else None
        self._pushes.append(push)
        self._news.set()
        return Gap(None, dropped.position, "buffer", channel) if dropped else None

    def end(self, error: PodpairError | None) -> None:
        """End the iteration, with `error` if there is one."""
        self._ended, self._error = True, error
        self._news.set()

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        while True:
            while self._pushes:
                yield self._pushes.popleft()
            if self._ended:
                if self._error is not None:
                    raise self._error
                return
            self._news.clear()
            await self._news.wait()
