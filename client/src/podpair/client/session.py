"""A session: the calls of its user, and the way from an arrived event to the task that waits for it.

A session survives the connections that carry it; `link` holds those, `protocol` decides.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, Unpack

from podpair.client.calls import Call, Inbox, Stream
from podpair.client.errors import DeadlineExceeded, Lost, PodpairError, SessionClosed
from podpair.client.events import Event, Gap, Push, Result
from podpair.client.link import Link
from podpair.client.options import RequestOptions, Route
from podpair.client.protocol import Request, SessionState
from podpair.client.tracing import current_traceparent

log = logging.getLogger(__name__)

#: Seconds that the gateway's own `deadline_exceeded` may take to arrive before this side says it.
DEADLINE_GRACE = 0.5


class Session:
    """An open session. Made by `connect`; all methods belong to the event loop that made it."""

    def __init__(
        self,
        protocol: SessionState,
        make_link: Callable[["Session"], Link],
        *,
        max_open: int,
        max_pushes: int,
        on_gap: Callable[[Gap], None] | None,
        on_state: Callable[[str], None] | None,
    ) -> None:
        self._protocol = protocol
        self._link = make_link(self)
        self._on_gap, self._on_state = on_gap, on_state
        self._loop = asyncio.get_running_loop()
        #: Requests that are awaited, by id.
        self._calls: dict[str, Call] = {}
        self._inbox = Inbox(max_pushes)
        #: Room for further open requests: `infer` waits here when `max_open` are.
        self._room = asyncio.Semaphore(max_open)
        self.state = "connecting"
        """`connecting`, `open`, `reconnecting` or `closed`."""
        self.error: PodpairError | None = None
        """Why the session ended; None while it lives, and after `close`."""
        #: What else ends with the session.
        self.on_close: Callable[[], Awaitable[None]] | None = None

    # --- what the user calls -------------------------------------------------------------------------------------

    @property
    def session(self) -> str:
        """The session's id: what others push to."""
        return self._protocol.session or ""

    @property
    def position(self) -> str | None:
        """The position of the last event taken."""
        return self._protocol.position

    @property
    def resume(self) -> str | None:
        """The resume token of the last welcome."""
        return self._protocol.resume

    @property
    def gateway(self) -> str | None:
        """The name of the gateway process that answered last."""
        return self._protocol.gateway

    @property
    def limits(self) -> dict[str, float]:
        """`in_flight`, `message_bytes`, `idle_seconds`, `resume_seconds` of the last welcome."""
        return self._protocol.limits

    @property
    def expires_at(self) -> float | None:
        """Unix seconds at which the present token ends; None where it doesn't."""
        return self._protocol.expires_at

    async def infer(self, model: str, data: Any = None, **options: Unpack[RequestOptions]) -> Result:
        """Ask a model, and wait for its answer. Cancelling the awaiting task cancels the request.

        Args:
            model: The model's name.
            data: Shorthand for a model with one input: a row, or a list of rows. Otherwise pass V2 tensors as `inputs`.
            **options: See `RequestOptions`.

        Returns:
            The result: `data` by the name of each output, or `outputs` as V2 tensors if the request had `inputs`.

        Raises:
            Invalid: The request does not fit the model, or is not JSON.
            NotFound: The gateway has no such model.
            Overloaded: A bounded queue is full; `retry_after` says when to try again.
            DeadlineExceeded: No answer came before the deadline.
            Upstream: The model failed, or its gateway can not reach it.
            Lost: The request may have run, and its answer can not be had.
            SessionClosed: The session is closed.

        Examples:
            >>> result = await session.infer("digits", [0.0] * 64, route="queue", deadline=2.0)
            >>> result.data["label"]
            [4]
        """
        async with self._call(model, data, **options) as call:
            return await call.result

    def stream(self, model: str, data: Any = None, **options: Unpack[RequestOptions]) -> Stream:
        """Ask a model that streams, and iterate over the chunks of its answer as they come.

        Args:
            model: The model's name.
            data: As for `infer`.
            **options: See `RequestOptions`.

        Returns:
            An asynchronous iterator over the chunks. It raises what `infer` raises.

        Examples:
            >>> async for text in session.stream("llm", "Why is the sky blue?"):
            ...     print(text, end="")
        """
        return Stream(lambda: self._call(model, data, stream=True, **options))

    async def result(self, request_id: str) -> Result:
        """Wait for the answer to a request that was posted into this session over HTTP (`POST /v1/infer`).

        Raises what `infer` raises.
        """
        call = Call(self._protocol.adopt(request_id))
        self._calls[request_id] = call
        try:
            return await call.result
        finally:
            self._calls.pop(request_id, None)

    async def pushes(self) -> AsyncIterator[Push]:
        """Iterate over pushes in order until the session is closed. Raises the error that ended it, if one did."""
        async for push in self._inbox:
            yield push

    def cut(self) -> None:
        """Break the connection as a network would, for tests and demonstrations: the session reconnects and resumes."""
        self._link.cut()

    async def open(self) -> None:
        """Connect for the first time; `connect` does it."""
        await self._link.open()

    async def close(self) -> None:
        """End the session. Requests that are still open raise SessionClosed."""
        await self._link.close()
        if self.on_close is not None:
            callback, self.on_close = self.on_close, None
            await callback()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- a request -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _call(
        self,
        model: str,
        data: Any = None,
        *,
        inputs: Sequence[Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        route: Route | None = None,
        deadline: float | None = None,
        on_disconnect: str | None = None,
        resend: bool = True,
        id: str | None = None,  # noqa: A002
        traceparent: str | None = None,
        stream: bool | None = None,
    ) -> AsyncIterator[Call]:
        body = {"model": model, "data": data, "inputs": inputs, "parameters": parameters, "route": route}
        body |= {"on_disconnect": on_disconnect, "stream": stream, "traceparent": traceparent or current_traceparent()}
        body = {name: value for name, value in body.items() if value is not None}
        until = None if deadline is None else self._loop.time() + deadline
        try:
            async with asyncio.timeout(deadline):
                await self._room.acquire()
        except TimeoutError:
            raise DeadlineExceeded("the client's own queue was full until the deadline") from None
        request = Request(id or f"r-{uuid.uuid4().hex[:12]}", body, deadline=until, resend=resend)
        try:
            async with self._opened(request) as call:
                yield call
        finally:
            self._room.release()

    @asynccontextmanager
    async def _opened(self, request: Request) -> AsyncIterator[Call]:
        if self.state == "closed":
            raise self.error or SessionClosed("the session is closed")
        self._protocol.submit(request)
        call = self._calls[request.id] = Call(request)
        timer = None
        if request.deadline is not None:
            timer = self._loop.call_at(request.deadline + DEADLINE_GRACE, self._expire, request.id)
        self._link.wake()
        try:
            yield call
        finally:
            if timer is not None:
                timer.cancel()
            del self._calls[request.id]
            self._protocol.cancel(request.id)  # does nothing for a request that has ended
            self._link.wake()

    def _expire(self, request_id: str) -> None:
        for event in self._protocol.expire(request_id):
            self.deliver(event)
        self._link.wake()

    # --- what the link calls -------------------------------------------------------------------------------------

    def deliver(self, event: Event) -> None:
        """Hand an event to the request, the inbox or the log that it is for."""
        match event:
            case {"type": "push"}:
                gap = self._inbox.put(Push.from_event(event))
                if gap is not None:
                    self._gap(gap)
            case {"type": "gap"}:
                self._gap(Gap.from_event(event))
            case {"id": str() as request_id} if request_id in self._calls:
                self._calls[request_id].feed(event)
            case {"type": "error"}:
                log.warning("the gateway says %s: %s", event.get("code"), event.get("message"))

    def changed(self, state: str) -> None:
        """Note that the link is `open`, or `reconnecting`."""
        if state == self.state:
            return
        self.state = state
        if self._on_state is not None:
            self._on_state(state)

    def ended(self, error: PodpairError | None) -> None:
        """End the session and its requests. `error` says why; None if its user closed it."""
        self.error = error
        self.changed("closed")
        self._inbox.end(error)
        for call in list(self._calls.values()):
            if error is None:
                call.fail(SessionClosed("the session was closed before the answer came", id=call.request.id))
            else:
                lost = Lost(f"the session ended before the answer came: {error.message}", id=call.request.id)
                lost.__cause__ = error
                call.fail(lost)

    def _gap(self, gap: Gap) -> None:
        if self._on_gap is not None:
            self._on_gap(gap)
        else:
            log.warning("events from %s to %s can't be had any more: %s", gap.start, gap.end, gap.reason)
