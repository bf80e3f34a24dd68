"""A request between the queue and its answer, over any protocol: what its end lets go of, in the turn in which it ran.

Invariant: the version that a request was given is released once, whatever becomes of the answer.
"""

import time
from typing import Any

from podpair.inference.core.tensors import Array
from podpair.inference.runtime.catalog import Catalog, ServedVersion
from podpair.inference.tracing import Recorded


class Answering:
    """A `Sink`. A protocol's own says how the outputs are sent, and how a failure is told."""

    __slots__ = ("_catalog", "_served", "queued", "trace")

    def __init__(self, catalog: Catalog, served: ServedVersion, trace: Recorded | None) -> None:
        self._catalog = catalog
        self._served = served
        # Where it is recorded.
        self.trace = trace
        # What the scheduler, or the stage before it, knows it by.
        self.queued: Any = None

    def send(self, arrays: list[Array], ready: float) -> None:
        """Encode the answer and send it. `ready`: when the outputs came, on the monotonic clock."""
        raise NotImplementedError

    def explain(self, error: Exception) -> None:
        """End the request with a failure."""
        raise NotImplementedError

    def done(self, arrays: list[Array]) -> None:
        """The outputs."""
        # It refers to this as its sink: the arrays would stay until cycles are collected.
        self.queued = None
        ready = time.monotonic()
        failed: Exception | None = None
        try:
            self.send(arrays, ready)
        except Exception as error:
            failed = error
            self.explain(error)
        finally:
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.stage("egress", ready, time.monotonic())
                self.trace.end(failed)

    def failed(self, error: Exception) -> None:
        """There are none."""
        self.queued = None
        try:
            self.explain(error)
        finally:
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.end(error)

    def withdraw(self) -> None:
        """The client has gone; what runs already runs on."""
        queued, self.queued = self.queued, None
        if queued is not None and self._served.scheduler.withdraw(queued):
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.end(ConnectionResetError("the client has gone"))
