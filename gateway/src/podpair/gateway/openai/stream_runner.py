"""Generates logged streams, each in a task of its own.

Invariant: a stream goes on when its client leaves, and ends once: with its own last event, or by the first record that ends it
from outside.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NamedTuple

from podpair.gateway.openai.core.errors import ApiError
from podpair.gateway.openai.core.stream_ids import StreamId
from podpair.gateway.openai.core.stream_records import Begin, Note, StreamState
from podpair.gateway.openai.guard import CALL_ERRORS, Caller, Guard
from podpair.gateway.openai.stream_log import StreamLog, StreamWriter
from podpair.gateway.service import Service
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_AGAIN = 1.0  # seconds before a log that can't be read is read again
_BROKEN = "the gateway failed while it generated it"
_STOPPED = "the gateway that generated it was stopped"
_LATE = "the deadline passed while the model was at work"
_FAILING_SECONDS = 5.0  # for the records that say what has not ended


class Made(NamedTuple):
    """Events, and whether the last of them ends the stream."""

    events: list[bytes]
    last: bool = False


Maker = Callable[[StreamId], AsyncIterator[Made]]
"""Makes the events of a stream whose id is known."""


class Plan(NamedTuple):
    """A stream that is to be generated."""

    kind: str
    model: str
    about: dict[str, Any]
    open: Callable[[], Awaitable[Maker]]
    """Asks the model. What it raises is the response to the client, and then there is no stream."""


class StreamRunner:
    """Starts, finds and stops streams."""

    def __init__(self, service: Service, guard: Guard) -> None:
        self._service = service
        self._guard = guard
        self._tasks = Tasks()

    def log(self, caller: Caller) -> StreamLog:
        """Return the log of streams."""
        return StreamLog(caller.components, self._service.config.results.topic, self._service.name)

    async def load(self, caller: Caller, text: str, kind: str) -> tuple[StreamId, StreamState] | None:
        """Return a stream of this caller by its id; None if there is none, or it is another's."""
        stream = StreamId.parse(text, kind)
        state = None if stream is None else await self.log(caller).read(stream)
        if stream is None or state is None or state.deleted or state.begin is None:
            return None
        return (stream, state) if state.begin.subject == caller.identity.subject else None

    async def start(self, caller: Caller, plan: Plan) -> StreamId:
        """Start a stream; return its id. Raises what a call of a model raises, and ApiError if it can't be stored."""
        begun: asyncio.Future[StreamId] = asyncio.get_running_loop().create_future()
        work = self._tasks.spawn(self._run(caller, plan, begun))
        work.add_done_callback(partial(_pass_on, begun))
        try:
            return await begun
        except asyncio.CancelledError:
            work.cancel()
            raise

    def cancel(self, caller: Caller, stream: StreamId) -> None:
        """Cancel a stream that nobody knows of."""
        self._tasks.spawn(self.log(caller).append(stream, Note("cancelled")))

    async def _run(self, caller: Caller, plan: Plan, begun: "asyncio.Future[StreamId]") -> None:
        try:
            async with self._guard.admitted(caller, plan.model):
                maker = await plan.open()
                stream = await self.log(caller).create(plan.kind, Begin(caller.identity.subject, plan.about))
                if not begun.done():
                    begun.set_result(stream)
                await self._generate(self.log(caller), stream, maker(stream))
        except CALL_ERRORS as error:
            caller.components.model.readiness.on_error(error)
            if not begun.done():
                begun.set_exception(error)

    async def _generate(self, log: StreamLog, stream: StreamId, made: AsyncIterator[Made]) -> None:
        """Log the events of a stream until it ends, also from outside."""
        writer = StreamWriter(log, stream)
        work = asyncio.current_task()
        assert work is not None  # noqa: S101
        listening = asyncio.create_task(_cancel_with(log, stream, work))
        try:
            async with aclosing(made):  # type: ignore[type-var]
                async for events, last in made:
                    await writer.add(events, last=last)
            await writer.finish()
        except asyncio.CancelledError:
            if not listening.done():  # it was not ended from outside
                await log.append(stream, Note("lost", _STOPPED if self._service.draining else _LATE))
            raise
        except Exception:
            # Nobody waits for this task: who follows the stream has to learn of it.
            _log.exception("generating stream %s failed", stream.name)
            await log.append(stream, Note("lost", _BROKEN))
        finally:
            listening.cancel()
            await writer.close()

    async def stop(self, seconds: float) -> None:
        """Let streams end, for nearly so many seconds; what is left then fails."""
        left = time_to_end(seconds)
        await self._tasks.join(left)
        with suppress(TimeoutError):  # without a broker none can say that it failed: who follows it finds that
            async with asyncio.timeout(max(1.0, seconds - left)):
                await self._tasks.cancel()


def time_to_end(seconds: float) -> float:
    """Return how long streams may go on, of the seconds until the gateway has to have stopped."""
    return max(0.0, seconds / 2, seconds - _FAILING_SECONDS)


async def _cancel_with(log: StreamLog, stream: StreamId, work: "asyncio.Task[Any]") -> None:
    """Cancel the work once its stream has been ended from outside, or is found no more: the results topic was made again."""
    while True:
        try:
            async with aclosing(log.follow(stream)) as states:  # type: ignore[type-var]
                async for state in states:
                    if state.ending is not None and state.ending.how == "whole":
                        return
                    state.forget_events()
        except ApiError:  # the log can't be read now
            await asyncio.sleep(_AGAIN)
        else:
            break
    asyncio.get_running_loop().call_soon(work.cancel)


def _pass_on(begun: "asyncio.Future[StreamId]", work: "asyncio.Task[None]") -> None:
    """Have whoever waits for an id learn that its work has ended without one."""
    if begun.done():
        return
    error = None if work.cancelled() else work.exception()
    if error is None:
        begun.cancel()
    else:
        begun.set_exception(error)
