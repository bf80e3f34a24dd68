"""How many direct requests the pair has in hand, and whether it takes one more."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.routing import Load, choose_route
from podpair.gateway.metrics import Metrics
from podpair.gateway.upstream.readiness import Readiness


class DirectRequests:
    """Those of the WebSockets and those over HTTP, together. limit: how many there may be."""

    def __init__(self, limit: int, readiness: Readiness, metrics: Metrics) -> None:
        self._limit = limit
        self._readiness = readiness
        self._idle = asyncio.Event()  # set while there are none
        self._idle.set()
        self.count = 0
        metrics.direct.set_function(lambda: self.count)

    def add(self, change: int) -> None:
        """So many have begun, or ended where it is negative."""
        before = self.count
        self.count = before + change
        if not before:
            self._idle.clear()
        if not self.count:
            self._idle.set()

    def room(self, grant: Grant | None) -> bool:
        """Whether the model may be asked directly at once, with a token that allows that."""
        return self.count < self._allowed(grant) and self._readiness.ready

    def load(self, grant: Grant | None = None) -> Load:
        """The pair as the next request finds it, whose token allows that."""
        return Load(self._readiness.ready, self.count, self._allowed(grant), queue_open=True)

    def _allowed(self, grant: Grant | None) -> int:
        """How many there may be before one of this grant."""
        return self._limit if grant is None else grant.room(self._limit)

    @contextmanager
    def slot(self, grant: Grant | None = None) -> Iterator[None]:
        """Room for one synchronous call to the model. Raises Fault(overloaded) where there is none."""
        choose_route("direct", self.load(grant))
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)

    async def ended(self) -> None:
        """Return while there are none."""
        await self._idle.wait()
