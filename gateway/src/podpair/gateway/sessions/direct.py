"""Direct requests in flight, and admission of further ones."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.routing import Load, choose_route
from podpair.gateway.metrics import Metrics
from podpair.gateway.upstream.readiness import Readiness


class DirectRequests:
    """Counts direct requests of WebSockets and of plain HTTP. limit: how many may be in flight."""

    def __init__(self, limit: int, readiness: Readiness, metrics: Metrics) -> None:
        self._limit = limit
        self._readiness = readiness
        self._idle = asyncio.Event()  # set while there are none
        self._idle.set()
        self.count = 0
        metrics.direct.set_function(lambda: self.count)

    def add(self, change: int) -> None:
        """Add `change` to the number of requests in flight."""
        before = self.count
        self.count = before + change
        if not before:
            self._idle.clear()
        if not self.count:
            self._idle.set()

    @property
    def free(self) -> int:
        """How many more requests without a grant may be sent to the model at once."""
        return self._limit - self.count if self._readiness.ready else 0

    def room(self, grant: Grant | None) -> bool:
        """Return whether a request with this grant may be sent to the model at once."""
        return self.count < self._allowed(grant) and self._readiness.ready

    def load(self, grant: Grant | None = None) -> Load:
        """Return the load that a request with this grant is routed by."""
        return Load(self._readiness.ready, self.count, self._allowed(grant))

    def _allowed(self, grant: Grant | None) -> int:
        """Return how many requests may be in flight before one with this grant."""
        return self._limit if grant is None else grant.room(self._limit)

    @contextmanager
    def slot(self, grant: Grant | None = None) -> Iterator[None]:
        """Reserve room for one synchronous call to the model. Raises Fault(overloaded) if there is none."""
        choose_route("direct", self.load(grant))
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)

    async def ended(self) -> None:
        """Wait until none is in flight."""
        await self._idle.wait()
