"""A request between the queue and its answer: the scheduler calls back, and the call is ended in the turn in which it ran."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from podpair.inference.core.tensors import Array
from podpair.inference.grpc.calls import Calls
from podpair.inference.grpc.front import Call
from podpair.inference.runtime.catalog import Catalog, ServedVersion
from podpair.inference.tracing import Recorded


class Answering:
    """A `Sink` that ends a call, and lets go of the version that it was given. encode: makes a message of the outputs."""

    __slots__ = ("_call", "_calls", "_catalog", "_encode", "_served", "queued", "trace")

    def __init__(
        self,
        catalog: Catalog,
        calls: Calls,
        call: Call,
        served: ServedVersion,
        encode: Callable[[Sequence[Array]], bytes],
        trace: Recorded | None,
    ) -> None:
        self._catalog = catalog
        self._calls = calls
        self._call = call
        self._served = served
        self._encode = encode
        # Where it is recorded.
        self.trace = trace
        # What the scheduler, or the stage before it, knows it by.
        self.queued: Any = None

    def done(self, arrays: list[Array]) -> None:
        """Encode the answer and send it."""
        # It refers to this as its sink: the arrays would stay until cycles are collected.
        self.queued = None
        ready = time.monotonic()
        failed: Exception | None = None
        try:
            self._call.answer(self._encode(arrays))
        except Exception as error:
            failed = error
            self._calls.fail(self._call, error)
        done = time.monotonic()
        self._served.metrics.egress.observe(done - ready)
        self._catalog.release(self._served)
        if self.trace is not None:
            self.trace.stage("egress", ready, done)
            self.trace.end(failed)

    def failed(self, error: Exception) -> None:
        """Say so."""
        self.queued = None
        try:
            self._calls.fail(self._call, error)
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
