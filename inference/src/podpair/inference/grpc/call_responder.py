"""Answers a call that was begun directly, which ends the call."""

import time
from collections.abc import Callable, Sequence

from podpair.inference.core.tensors import Array
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.calls import Calls
from podpair.inference.responder import Responder
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.tracing import RecordedTrace


class CallResponder(Responder):
    """Answers a call. encode: encodes the outputs as a message."""

    __slots__ = ("_call", "_calls", "_encode")

    def __init__(
        self,
        catalog: Catalog,
        calls: Calls,
        call: Call,
        served: ServedVersion,
        encode: Callable[[Sequence[Array]], bytes],
        trace: RecordedTrace | None,
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

    def send_error(self, error: Exception) -> None:
        self._calls.fail(self._call, error)
