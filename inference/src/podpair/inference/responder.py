"""Answers a request, over any protocol, in the loop turn in which it ran.

Invariant: the version that a request holds is released once, whether or not it can be answered.
"""

import time
from typing import Any

from podpair.inference.core.tensors import Array
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.tracing import RecordedTrace


class Responder:
    """A `ResultSink` that answers. Each protocol has a subclass, which sends outputs and errors."""

    __slots__ = ("_catalog", "_served", "queued", "trace")
    # See `ResultSink`.
    path: tuple[str, ...] = ()

    def __init__(self, catalog: Catalog, served: ServedVersion, trace: RecordedTrace | None) -> None:
        self._catalog = catalog
        self._served = served
        # Set if the request is recorded.
        self.trace = trace
        # The request's item in the scheduler, or in the stage before it.
        self.queued: Any = None

    def send(self, arrays: list[Array], ready: float) -> None:
        """Encode the answer and send it. ready: when the outputs came, on the monotonic clock."""
        raise NotImplementedError

    def send_error(self, error: Exception) -> None:
        """Answer with an error."""
        raise NotImplementedError

    def done(self, arrays: list[Array]) -> None:
        """Send the outputs, and release the version."""
        # The item refers to this as its sink: the arrays would stay in memory until cycles are collected.
        self.queued = None
        ready = time.monotonic()
        failed: Exception | None = None
        try:
            self.send(arrays, ready)
        except Exception as error:
            failed = error
            self.send_error(error)
        finally:
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.stage("egress", ready, time.monotonic())
                self.trace.end(failed)

    def failed(self, error: Exception) -> None:
        """Send the error, and release the version."""
        self.queued = None
        try:
            self.send_error(error)
        finally:
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.end(error)

    def withdraw(self) -> None:
        """Withdraw the request of a client that has gone; a run that has begun goes on."""
        queued, self.queued = self.queued, None
        if queued is not None and self._served.scheduler.withdraw(queued):
            self._catalog.release(self._served)
            if self.trace is not None:
                self.trace.end(ConnectionResetError("the client has gone"))
