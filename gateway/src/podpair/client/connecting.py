"""`connect`: where a session begins."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from podpair.client.events import Event, Gap
from podpair.client.link import Link, LinkOptions
from podpair.client.protocol import SessionState
from podpair.client.schedule import Backoff
from podpair.client.session import Session
from podpair.client.transport import Gateways, Token


class Connecting:
    """What `connect` returns: `async with` it, or `await` it and close the session yourself."""

    def __init__(self, make: Callable[[AsyncExitStack], Awaitable[Session]]) -> None:
        self._make = make
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Session:
        try:
            session = await self._make(self._stack)
        except BaseException:
            await self._stack.aclose()
            raise
        self._stack.push_async_callback(session.close)
        return session

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def __await__(self) -> Generator[Any, None, Session]:
        return self._awaited().__await__()

    async def _awaited(self) -> Session:
        session = await self.__aenter__()
        session.on_close = self._stack.aclose
        return session


def connect(
    url: str | Sequence[str],
    *,
    token: Token = None,
    resume: str | None = None,
    position: str | None = None,
    backoff: Backoff | None = None,
    max_open: int = 1024,
    max_pushes: int = 10_000,
    heartbeat: float = 20.0,
    open_timeout: float = 10.0,
    on_event: Callable[[Event], None] | None = None,
    on_gap: Callable[[Gap], None] | None = None,
    on_state: Callable[[str], None] | None = None,
    http: aiohttp.ClientSession | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> Connecting:
    """A session with the gateway at `url` (or with one of several): it reconnects, resumes and refreshes by itself.

    `token` is a JWT or a function that gives one; with a function the token is refreshed before it expires. `resume`
    and `position` continue a session that another process held. `max_open` bounds the open requests, `max_pushes` the
    pushes that wait to be taken. `heartbeat` and `open_timeout` are seconds. `on_event` sees each raw event, those that
    are dropped too; `on_gap` each gap (otherwise it is logged); `on_state` `open`, `reconnecting` and `closed`.

    Raises on entering, when no address can be used: Unauthorized, Forbidden, Invalid, Overloaded, Unreachable.
    """
    urls = (url,) if isinstance(url, str) else tuple(url)
    protocol = SessionState(resume=resume, position=position)
    options = LinkOptions(token, heartbeat, open_timeout, clock, sleep, on_event)
    gateways, steps = Gateways(urls), backoff or Backoff()

    async def make(stack: AsyncExitStack) -> Session:
        client = await stack.enter_async_context(aiohttp.ClientSession()) if http is None else http
        session = Session(
            protocol,
            lambda owner: Link(owner, protocol, gateways, client, steps, options),
            max_open=max_open,
            max_pushes=max_pushes,
            on_gap=on_gap,
            on_state=on_state,
        )
        await session.open()
        return session

    return Connecting(make)
