"""The answer to a call that was begun directly: the call is ended with it."""

import time
from collections.abc import Callable, Sequence

from podpair.inference.answering import Answering
from podpair.inference.core.tensors import Array
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.calls import Calls
from podpair.inference.runtime.catalog import Catalog, ServedVersion
from podpair.inference.tracing import Recorded


class CallAnswering(Answering):
    """Ends a call. encode: makes a message of the outputs."""

    __slots__ = ("_call", "_calls", "_encode")

    def __init__(
        self,
        catalog: Catalog,
        calls: Calls,
        call: Call,
        served: ServedVersion,
        encode: Callable[[Sequence[Array]], bytes],
        trace: Recorded | None,
    ) -> None:
        super().__init__(catalog, served, trace)
        self._calls = calls
        self._call = call
        self._encode = encode

    def send(self, arrays: list[Array], ready: float) -> None:
        try:
            self._call.answer(self._encode(arrays))
        finally:
            self._served.metrics.egress.observe(time.monotonic() - ready)

    def explain(self, error: Exception) -> None:
        self._calls.fail(self._call, error)
