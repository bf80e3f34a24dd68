"""Requests that are followed while they run: workflows, and jobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from podpair.client.calls import Call
from podpair.client.errors import Cancelled, Lost, SessionClosed
from podpair.client.events import Result, StageEvent


class _Session(Protocol):
    """What a run needs of its session."""

    def signal(self, request_id: str, name: str, data: Any = None) -> bool: ...
    def ask_to_cancel(self, request_id: str) -> None: ...


class Run:
    """A request that is followed while it runs, as `Session.workflow` starts it; a `Job` is one, too."""

    def __init__(self, session: _Session, call: Call) -> None:
        self._session, self._call = session, call

    @property
    def id(self) -> str:
        """The request's id."""
        return self._call.request.id

    @property
    def done(self) -> bool:
        """Whether it has ended, as far as is known here."""
        return self._call.result.done()

    async def result(self, timeout: float | None = None) -> Result:
        """Wait for the answer. The request goes on if nobody waits any more.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: It was not there in time.
            Lost: Its answer can not be had any more: it is older than what the topic keeps, or the session could not be resumed.

        It also raises whatever `Session.infer` raises for an answer that is an error.
        """
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self._call.result)

    async def partials(self) -> AsyncIterator[Any]:
        """Iterate over the parts of a streamed answer, the first ones first, until it has ended. Each is given once.

        Raises what `result` raises where the answer is an error, or can not be had.
        """
        async for event in self._call.partials():
            yield event.get("data")
        await asyncio.shield(self._call.result)

    async def events(self) -> AsyncIterator[StageEvent]:
        """Iterate over what a workflow tells of its stages, the first events first, until it has ended. Each is given once.

        They are the workflow's `partials`: iterate over one of the two. Raises what `result` raises where the workflow fails.

        Examples:
            >>> async for event in run.events():
            ...     if event.event == "waiting":
            ...         run.signal("approval", {"approved": True})
        """
        async for part in self.partials():
            for event in part:
                yield StageEvent.from_event(event)

    def signal(self, name: str, data: Any = None) -> bool:
        """Send a workflow what one of its stages waits for (`wait_for`); it may come before the stage does.

        The first signal of a name counts, whoever sent it. It is sent again if the connection breaks.

        Args:
            name: What the stage waits for.
            data: The stage's output, anything that is JSON.

        Returns:
            False if the workflow has ended, as far as is known here.

        Raises:
            Invalid: `data` is not JSON, or larger than the gateway takes.
            SessionClosed: It was left.
        """
        return self._session.signal(self.id, name, data)

    async def cancel(self, timeout: float | None = None) -> bool:
        """End it, and wait until it has ended. Returns False if it had an answer before the word came to it.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: It had not ended in time; the word is on its way.
            Lost: How it ended can not be known any more, as for `result`.
            SessionClosed: It was left.
        """
        self._session.ask_to_cancel(self.id)
        async with asyncio.timeout(timeout):
            await asyncio.wait((self._call.result,))
        error = self._call.result.exception()
        if isinstance(error, Lost | SessionClosed):
            raise error
        return isinstance(error, Cancelled)
