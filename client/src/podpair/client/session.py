"""A session: the calls of its user, and the way from an arrived event to the task that waits for it.

A session survives the connections that carry it; `link` holds those, `protocol` decides.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, Unpack

import msgspec

from podpair.client.calls import Call, Inbox, Stream
from podpair.client.channel_calls import Channels, Subscription
from podpair.client.errors import DeadlineExceeded, Lost, PodpairError, SessionClosed
from podpair.client.events import Event, Gap, PresentSession, Push, Result
from podpair.client.link import Link
from podpair.client.options import RequestOptions, frame_members
from podpair.client.protocol import Request, SessionState
from podpair.client.runs import Run
from podpair.client.tracing import current_traceparent
from podpair.client.transport import encode_frame

log = logging.getLogger(__name__)

#: Seconds that the gateway's own `deadline_exceeded` may take to arrive before this side says it.
DEADLINE_GRACE = 0.5
#: Seconds that the gateway may take to end a request whose submitter was cancelled before it was accepted.
CANCEL_GRACE = 5.0


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
        self._inbox: Inbox[Push] = Inbox(max_pushes)
        self._channels = Channels(self._protocol, self._link.wake, max_pushes)
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
    def began(self) -> str | None:
        """The position at which the session began. For `submit`."""
        return self._protocol.began

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

    @asynccontextmanager
    async def workflow(self, model: str, data: Any = None, **options: Unpack[RequestOptions]) -> AsyncIterator[Run]:
        """Start a workflow, and follow it: `async with` it. If the block is left before its end it is cancelled.

        Args:
            model: The workflow's name.
            data: What its declaration calls `request`.
            **options: See `RequestOptions`. Workflows run on the queue alone.

        Returns:
            The `Run`, which tells of its stages, takes signals for them, and has the result.

        Examples:
            >>> async with session.workflow("order", {"items": [1, 2]}) as run:
            ...     async for event in run.events():
            ...         print(event.stage, event.event)
            ...     print((await run.result()).data)
        """
        async with self._call(model, data, stream=True, **options) as call:
            yield Run(self, call)

    def signal(self, request_id: str, name: str, data: Any = None) -> bool:
        """Send a workflow of this session what one of its stages waits for; `Run.signal` describes it.

        Args:
            request_id: The id of the workflow's request.
            name: What the stage waits for.
            data: The stage's output.

        Returns:
            False if no such request is open here.
        """
        if self.state == "closed":
            raise self.error or SessionClosed("the session is closed")
        raw = encode_frame(data, None)
        encode_frame(
            {"type": "signal", "id": request_id, "name": name, "data": msgspec.Raw(raw)},
            self._protocol.limits.get("message_bytes"),
        )
        taken = self._protocol.signal(request_id, name, msgspec.Raw(raw))  # as it is now: the caller may change it
        self._link.wake()
        return taken

    async def result(self, request_id: str) -> Result:
        """Wait for the answer to a request that was posted into this session over HTTP (`POST /v1/infer`).

        Raises what `infer` raises, and ValueError if the request is already waited for.
        """
        call = self.adopt(request_id)
        try:
            return await call.result
        finally:
            del self._calls[request_id]
            self._protocol.leave(request_id)  # does nothing for a request that has ended
            self._link.wake()

    def adopt(self, request_id: str, body: dict[str, Any] | None = None) -> Call:
        """Take events of a request that was queued in this session by somebody else. For `attach`.

        Args:
            request_id: Its id.
            body: The members of its frame, if it may be repeated after a gap.
        """
        if self.state == "closed":
            raise self.error or SessionClosed("the session is closed")
        call = self._calls[request_id] = Call(self._protocol.adopt(request_id, body))
        return call

    async def enqueue(self, model: str, data: Any = None, **options: Any) -> None:
        """Ask a model through Kafka, and wait until the request is there; closing the session leaves it to itself. For `submit`.

        Raises what `infer` raises. If the awaiting task is cancelled the request is cancelled, and for a while its end awaited.
        """
        async with self._call(model, data, route="queue", **options) as call:
            try:
                await asyncio.wait((call.accepted, call.result), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self.ask_to_cancel(call.request.id)
                await asyncio.wait((call.result,), timeout=CANCEL_GRACE)
                raise
            if not call.accepted.done():
                await call.result  # it has failed, or its answer has overtaken the word that it is there
            self._protocol.leave(call.request.id)

    def ask_to_cancel(self, request_id: str) -> None:
        """Cancel a request whose end is waited for all the same."""
        for event in self._protocol.ask_to_cancel(request_id):
            self.deliver(event)
        self._link.wake()

    async def pushes(self) -> AsyncIterator[Push]:
        """Iterate over pushes in order until the session is closed. Raises the error that ended it, if one did."""
        async for push in self._inbox:
            yield push

    async def subscribe(self, channel: str, position: str | None = None) -> Subscription:
        """Subscribe to a channel, and wait until the gateway has done so; over reconnects it goes on where it was.

        Args:
            channel: Its name.
            position: That of the last publication that is known, to go on behind it; None: from now on.

        Returns:
            The subscription, to iterate over. What is missing of it is declared to `on_gap`.

        Raises:
            Forbidden: The token does not allow it.
            Invalid: No channel is called so, or there is no such position.
            Overloaded: The session has as many as it may.
            ValueError: It is subscribed to already.

        Examples:
            >>> async for publication in await session.subscribe("news"):
            ...     print(publication.data)
        """
        return await self._channels.subscribe(channel, position)

    async def publish(self, channel: str, data: Any) -> str:
        """Publish to a channel. Returns the publication's position once the broker has it.

        Raises:
            Forbidden: The token does not allow it.
            Overloaded: It is too much, or the broker does not take it now.
            Lost: The connection broke before the answer: it may be published.
            SessionClosed: The session is closed.
        """
        return await self._channels.publish(channel, data)

    async def presence(self, subject: str) -> list[PresentSession]:
        """Ask which sessions of a subject are connected anywhere. Raises Forbidden, Overloaded (not known yet), Unreachable."""
        return await self._channels.presence(subject)

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
        deadline: float | None = None,
        resend: bool = True,
        id: str | None = None,  # noqa: A002
        **more: Any,
    ) -> AsyncIterator[Call]:
        body = frame_members(model, data, more, current_traceparent())
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
            case {"subject": str()}:
                self._channels.deliver_presence(event)
            case {"channel": str() as channel}:
                gap = self._channels.deliver(channel, event)
                if gap is not None:
                    self._gap(gap)
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
        if state == "reconnecting":
            self._channels.disconnected()
        if self._on_state is not None:
            self._on_state(state)

    def ended(self, error: PodpairError | None) -> None:
        """End the session and its requests. `error` says why; None if its user closed it."""
        self.error = error
        self.changed("closed")
        self._inbox.end(error)
        self._channels.end(error)
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
