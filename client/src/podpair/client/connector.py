"""`connect` opens a session."""

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


class Connector:
    """Opens a session: `async with` it, or `await` it and close the session yourself."""

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
) -> Connector:
    """Open a session with a gateway: it reconnects, resumes and refreshes its token by itself.

    Args:
        url: The gateway's address, or several: `https://host`, `wss://host/base/path`, `host:port`. With several, the
            next is tried if one fails.
        token: A JWT, or a function (it may be a coroutine function) that returns one. With a function the token is
            refreshed before it expires. None if the gateway asks for no token.
        resume: The resume token of a session that another process held: `Session.resume`.
        position: The last position that was processed, `Session.position`. If the token names the session, `position`
            alone continues it.
        backoff: The waits between attempts to reconnect.
        max_open: Open requests at a time; `infer` waits for room beyond that.
        max_pushes: Pushes that wait to be taken. Beyond that the oldest are dropped, and declared as a gap.
        heartbeat: Seconds between pings.
        open_timeout: Seconds that one attempt to connect may take.
        on_event: Called with each raw event, also those that are dropped as duplicates.
        on_gap: Called with each gap. By default a gap is logged.
        on_state: Called with `open`, `reconnecting` or `closed` at each change.
        http: The aiohttp session to connect with, for proxies and TLS settings. By default the client makes its own.
        clock: Returns Unix seconds; tests replace it.
        sleep: Waits a number of seconds; tests replace it.

    Returns:
        A context manager (`async with`) that gives the `Session` and closes it. Awaited, it gives one that you close.

    Raises:
        Unauthorized: The gateway does not accept the token, or the resume token is not this subject's.
        Forbidden: The Origin, or what the token permits, forbids it.
        Invalid: The gateway does not understand the request.
        Overloaded: Each gateway refuses further connections.
        Unreachable: No gateway answers at the addresses.

    Examples:
        >>> async with podpair.client.connect("wss://models.example", token=fetch_token) as session:
        ...     result = await session.infer("digits", [0.0] * 64)
        ...     print(result.data)
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

    return Connector(make)
