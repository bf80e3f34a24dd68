"""The connections that carry a session, one after the other, over aiohttp.

What to send, what to deliver and when to try again is decided in `protocol` and `schedule`. Here is one task that
reads, and reconnects when there is nothing more to read, and for each connection one that writes: frames leave in
order, and the socket's back-pressure holds them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import msgspec

from podpair.client.errors import Forbidden, Internal, Invalid, Overloaded, PodpairError, Unauthorized, Unreachable
from podpair.client.events import Event
from podpair.client.protocol import SessionState
from podpair.client.schedule import STABLE_AFTER, Backoff, after_close, refresh_delay
from podpair.client.transport import Gateways, Token, current, cut, decode, encode_frame, open_socket

log = logging.getLogger(__name__)

#: With this code the client closes a connection whose session it will resume; 1000 says that it is done.
WILL_RESUME = 3000


class Owner(Protocol):
    """The session that a link serves."""

    def deliver(self, event: Event) -> None: ...
    def changed(self, state: str) -> None: ...
    def ended(self, error: PodpairError | None) -> None: ...


@dataclass(slots=True)
class LinkOptions:
    """How to connect; `connect` documents them."""

    token: Token
    heartbeat: float
    open_timeout: float
    #: Unix seconds, replaced in tests.
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[Any]]
    on_event: Callable[[Event], None] | None


class Link:
    """Keeps a session connected until it is closed, or nothing can be done any more."""

    def __init__(
        self,
        owner: Owner,
        protocol: SessionState,
        gateways: Gateways,
        http: aiohttp.ClientSession,
        backoff: Backoff,
        options: LinkOptions,
    ) -> None:
        self._owner, self._protocol, self._gateways = owner, protocol, gateways
        self._http, self._backoff, self._options = http, backoff, options
        self._loop = asyncio.get_running_loop()
        #: The present connection, and since when (monotonic seconds).
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._since = 0.0
        #: The writer has something to do.
        self._outgoing = asyncio.Event()
        #: Reads the present connection; cancelled to leave it.
        self._reader: asyncio.Task[PodpairError | None] | None = None
        #: Serves one connection after the other, until the session ends.
        self._runner: asyncio.Task[None] | None = None
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.Task[None] | None = None
        #: The expiry for which a refresh was made: not twice for the same, whatever the token function gives.
        self._refreshed_for = 0.0
        #: When a draining gateway asked to be left (monotonic seconds), and the timer that does it.
        self._not_before = 0.0
        self._drain_timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect for the first time: each address once, then raise the last error; from then on stay connected."""
        for attempt in range(1, len(self._gateways.urls) + 1):
            try:
                await self._dial()
                break
            except (Unreachable, Overloaded):
                self._gateways.skip()
                if attempt == len(self._gateways.urls):
                    raise
        self._runner = asyncio.create_task(self._run(), name="podpair-client")

    def wake(self) -> None:
        """Send what the protocol has to send."""
        self._outgoing.set()

    def cut(self) -> None:
        """Break the connection as a network would."""
        if self._ws is not None and self._reader is not None:
            cut(self._ws)
            self._reader.cancel()

    async def close(self) -> None:
        """Close the connection for good."""
        if self._runner is not None:
            try:
                await asyncio.sleep(0)  # a task that is cancelled before its first step ends nothing
            finally:
                self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
            self._runner = None

    # --- one connection after the other --------------------------------------------------------------------------

    async def _run(self) -> None:
        error: PodpairError | None = None
        try:
            while True:
                error = await self._serve()
                if error is not None:
                    break
                self._owner.changed("reconnecting")
                await self._reconnect()
        except asyncio.CancelledError:
            if self._ws is not None:
                await self._ws.close()
        except PodpairError as fatal:
            error = fatal
        except Exception as fault:
            log.exception("the client failed")
            error = Internal(f"the client failed: {fault!r}")
        finally:
            self._cancel_timers()
            self._owner.ended(error)

    async def _serve(self) -> PodpairError | None:
        """Read and write the present connection until it ends. Returns the error that forbids another one."""
        assert self._ws is not None  # noqa: S101 - _dial has set it
        self._reader = asyncio.create_task(self._read(self._ws))
        writer = asyncio.create_task(self._write(self._ws))
        try:
            await asyncio.wait((self._reader,))
            error = None if self._reader.cancelled() else self._reader.result()
        finally:
            tasks = (self._reader, writer)
            self._reader = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._protocol.disconnected()
            self._cancel_timers()
        await self._ws.close(code=WILL_RESUME)
        if self._loop.time() - self._since > STABLE_AFTER:
            self._backoff.reset()
        return error

    async def _reconnect(self) -> None:
        """Dial until a gateway welcomes the session, or raise what makes that pointless."""
        hint: float | None = max(0.0, self._not_before - self._loop.time())
        while True:
            await self._options.sleep(self._backoff.next(hint))
            hint = None
            try:
                await self._dial()
                return
            except (Forbidden, Invalid):
                raise
            except Unauthorized:
                if not self._protocol.refused():
                    raise
            except PodpairError as error:
                log.info("reconnecting: %s", error)
                hint = error.retry_after
            except Exception as error:  # the token function's: its issuer may be away for a while
                log.warning("no token to reconnect with: %r", error)
            self._gateways.skip()

    async def _dial(self) -> None:
        options = self._options
        self._ws, welcome = await open_socket(
            self._http,
            self._gateways.url,
            options.token,
            self._protocol.query(),
            heartbeat=options.heartbeat,
            timeout=options.open_timeout,
        )
        self._since = self._loop.time()
        self._receive(welcome)
        self._owner.changed("open")

    # --- frames --------------------------------------------------------------------------------------------------

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> PodpairError | None:
        while True:
            try:
                message = await ws.receive()
            except (aiohttp.ClientError, ConnectionError):
                return None  # a ping that can't be answered any more: aiohttp raises if the wire has ended
            if message.type is aiohttp.WSMsgType.TEXT:
                self._receive_text(message.data)
            elif message.type is not aiohttp.WSMsgType.BINARY:
                reason = message.extra if isinstance(message.extra, str) else ""
                return after_close(ws.close_code, reason, can_renew=callable(self._options.token))

    def _receive_text(self, text: str) -> None:
        try:
            event = decode(text)
        except msgspec.DecodeError:
            event = None
        if isinstance(event, dict):
            self._backoff.reset()
            self._receive(event)
        else:
            log.warning("the gateway sent a frame that is no JSON object: %.80s", text)

    def _receive(self, event: Event) -> None:
        if self._options.on_event is not None:
            self._options.on_event(event)
        if event.get("type") == "welcome":
            self._plan_refresh(event.get("expires_at"))
        elif event.get("type") == "drain":
            self._plan_departure((event.get("reconnect_after_ms") or 0) / 1000)
        for each in self._protocol.receive(event):
            self._owner.deliver(each)
        self._outgoing.set()

    async def _write(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Send what the protocol has, as fast as the socket takes it. A broken socket is the reader's to notice."""
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            while True:
                self._outgoing.clear()
                while (frame := self._protocol.next_frame(self._loop.time())) is not None:
                    data = self._encoded(frame)
                    if data is not None:
                        await ws.send_frame(data, aiohttp.WSMsgType.TEXT)
                await self._outgoing.wait()

    def _encoded(self, frame: Event) -> bytes | None:
        """Encode the frame as JSON. Returns None, and ends the request, if it can't be sent."""
        try:
            return encode_frame(frame, self._protocol.limits.get("message_bytes"))
        except Invalid as fault:
            for event in self._protocol.refuse(str(frame.get("id")), fault.message):
                self._owner.deliver(event)
            return None

    # --- timers --------------------------------------------------------------------------------------------------

    def _plan_refresh(self, expires_at: float | None) -> None:
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        if expires_at is None or not callable(self._options.token) or expires_at <= self._refreshed_for:
            return
        delay = refresh_delay(expires_at, self._options.clock(), self._backoff.rng)
        self._refresh_timer = self._loop.call_later(delay, self._begin_refresh, expires_at)

    def _begin_refresh(self, expires_at: float) -> None:
        self._refreshed_for = expires_at
        self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            token = await current(self._options.token)
        except Exception as error:  # 4001 comes next, and then a reconnect with another try
            log.warning("no token to refresh with: %r", error)
            return
        if token is not None:
            self._protocol.refresh(token)
            self._outgoing.set()

    def _plan_departure(self, delay: float) -> None:
        """Leave a draining gateway when it says, and don't come back to it."""
        self._gateways.skip()
        if self._drain_timer is None:
            self._not_before = self._loop.time() + delay
            self._drain_timer = self._loop.call_later(delay, self._leave)

    def _leave(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    def _cancel_timers(self) -> None:
        for timer in (self._refresh_timer, self._drain_timer):
            if timer is not None:
                timer.cancel()
        self._refresh_timer = self._drain_timer = None
        if self._refreshing is not None:
            self._refreshing.cancel()
            self._refreshing = None
