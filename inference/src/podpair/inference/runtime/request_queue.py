"""The queue of a model version, and the sinks for its results.

A version's queue is its scheduler, or the pre-processing stage before that; both are used alike.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from podpair.inference.core.batching import NORMAL
from podpair.inference.core.statistics import Statistics
from podpair.inference.core.tensors import Array
from podpair.inference.core.trace import Trace

NO_PARAMETERS: Mapping[str, Any] = {}


class ResultSink(Protocol):
    """Gets the result of a request in the loop's thread: exactly one of `done` and `failed` is called, once."""

    @property
    def trace(self) -> Trace | None:
        """The request's trace, if it is recorded."""
        ...

    @property
    def path(self) -> tuple[str, ...]:
        """The models from which the request came, each called by the one before it; empty if it came from a client."""
        ...

    def done(self, arrays: list[Array]) -> None:
        """Accept the outputs."""
        ...

    def failed(self, error: Exception) -> None:
        """Accept the reason why there are no outputs."""
        ...


class FutureSink:
    """A sink with a future to await."""

    __slots__ = ("future", "trace")
    path: tuple[str, ...] = ()

    def __init__(self, loop: asyncio.AbstractEventLoop, trace: Trace | None = None) -> None:
        self.trace = trace
        self.future: asyncio.Future[list[Array]] = loop.create_future()

    def done(self, arrays: list[Array]) -> None:
        if not self.future.done():
            self.future.set_result(arrays)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    async def result(self, withdraw: Callable[[], object]) -> list[Array]:
        """Wait for the outputs. If the caller is cancelled, call `withdraw`: nobody waits for them then."""
        try:
            return await self.future
        finally:
            if self.future.cancelled():
                withdraw()


class RequestQueue(Protocol):
    """The queue of a model version. What `enqueue` returns is for `withdraw`."""

    # The model's.
    name: str

    @property
    def max_items(self) -> int:
        """The most rows of a batch."""
        ...

    @property
    def running(self) -> int:
        """Batches in the runtime."""
        ...

    @property
    def depth(self) -> int:
        """Rows waiting."""
        ...

    @property
    def statistics(self) -> Statistics:
        """Counts and times of the requests."""
        ...

    async def submit(
        self,
        arrays: Sequence[Array],
        deadline: float | None = None,
        parameters: Mapping[str, Any] = ...,
        trace: Trace | None = None,
        priority: int = NORMAL,
    ) -> list[Array]:
        """Run one request and return its outputs."""
        ...

    def enqueue(
        self, arrays: Sequence[Array], deadline: float | None, parameters: Mapping[str, Any], sink: ResultSink,
        priority: int = NORMAL,
    ) -> Any:  # fmt: skip
        """Queue a request whose result goes to `sink`."""
        ...

    def withdraw(self, item: Any) -> bool:
        """Drop a queued request; False if it isn't queued any more."""
        ...

    async def drain(self, seconds: float) -> None:
        """Wait until all requests have ended."""
        ...
