"""podpair.v1.Inference: bytes in, scores and a label out."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from podpair.inference.core.errors import InferenceError, InvalidRequestError
from podpair.inference.core.predict import decode_payload, encode_answer
from podpair.inference.core.tensors import Array
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.call_responder import CallResponder
from podpair.inference.grpc.calls import Calls, deadline, key, priority, start_trace, trace_call
from podpair.inference.grpc.proto import podpair_pb2 as pb
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.tracing import RecordedTrace, Tracing

_NONE: Mapping[str, Any] = {}


class PredictService:
    """The service's methods."""

    def __init__(self, catalog: Catalog, calls: Calls, tracing: Tracing) -> None:
        self._catalog = catalog
        self._calls = calls
        self._tracing = tracing

    def predict(self, message: bytes, call: Call) -> None:
        """Decode and queue a Predict request. Raises InferenceError."""
        trace = start_trace(self._tracing, call, time.monotonic())
        try:
            self._queue(message, call, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            raise

    def _queue(self, message: bytes, call: Call, trace: RecordedTrace | None) -> None:
        try:
            request = pb.PredictRequest.FromString(message)
        except Exception as error:  # protobuf's DecodeError has no stable home
            raise InvalidRequestError(f"the message is no PredictRequest: {error}") from None
        served = self._catalog.acquire(*self._target(request), key(call))
        try:
            if trace is not None:
                trace.annotate(model=served.model, version=served.version, request=request.id)
            arrays = decode_payload(request.payload, served.signature)
            encode = partial(_encoded, served, request.id)
            responder = CallResponder(self._catalog, self._calls, call, served, encode, trace)
            responder.queued = served.scheduler.enqueue(arrays, deadline(call), _NONE, responder, priority(call))
            call.on_cancelled = responder.withdraw
        except BaseException:
            self._catalog.release(served)
            raise

    async def PredictStream(self, request: Any, context: Any) -> AsyncGenerator[bytes, None]:  # noqa: N802
        """Answer one request of a stream, with one message or several."""
        target = self._target(request)
        with trace_call(self._tracing, context) as trace, self._catalog.using(*target, key(context)) as served:
            if trace is not None:
                trace.annotate(model=served.model, version=served.version, request=request.id)
            arrays = decode_payload(request.payload, served.signature)
            async with aclosing(served.stream(arrays, {}, deadline(context), trace, priority(context))) as chunks:
                async for chunk in chunks:
                    scores, label = encode_answer(served.signature.outputs, chunk)
                    yield pb.PredictResponse(scores=scores, label=label, id=request.id).SerializeToString()

    def _target(self, request: Any) -> tuple[str, str | None]:
        """Parse `name` or `name/version` into model and version; it may be empty if there is one model."""
        name, _, version = request.model_id.partition("/")
        if name:
            return name, version or None
        models = self._catalog.models
        if len(models) != 1:
            raise InvalidRequestError(f"model_id is empty; there are {', '.join(model.name for model in models)}")
        return models[0].name, None


def _encoded(served: ServedVersion, identity: str, arrays: Sequence[Array]) -> bytes:
    scores, label = encode_answer(served.signature.outputs, arrays)
    answer: bytes = pb.PredictResponse(scores=scores, label=label, id=identity).SerializeToString()
    return answer


def encode_error(request: Any, error: InferenceError) -> bytes:
    """Encode the error of one request of a stream: the stream goes on."""
    failed: bytes = pb.PredictResponse(id=request.id, error=str(error)).SerializeToString()
    return failed
