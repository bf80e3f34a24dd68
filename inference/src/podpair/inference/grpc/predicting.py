"""podpair.v1.Inference: bytes in, scores and a label out."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from podpair.inference.core.errors import InferenceError, InvalidRequestError
from podpair.inference.core.predict import decode_payload, encode_answer
from podpair.inference.grpc.calls import deadline, key, traced
from podpair.inference.grpc.proto import podpair_pb2 as pb
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.tracing import Tracing


class PredictService:
    """The service's methods."""

    def __init__(self, catalog: Catalog, tracing: Tracing) -> None:
        self._catalog = catalog
        self._tracing = tracing

    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's own name, as below
        """One payload, one answer."""
        target = self._target(request)
        with traced(self._tracing, context) as trace, self._catalog.using(*target, key(context)) as served:
            if trace is not None:
                trace.tell(model=served.model, version=served.version, request=request.id)
            arrays = decode_payload(request.payload, served.signature)
            answer = await served.scheduler.submit(arrays, deadline(context), trace=trace)
            scores, label = encode_answer(served.signature.outputs, answer)
            return pb.PredictResponse(scores=scores, label=label, id=request.id)

    async def PredictStream(self, request: Any, context: Any) -> AsyncGenerator[bytes, None]:  # noqa: N802
        """One request of a stream: its answer, or its answer's parts."""
        target = self._target(request)
        with traced(self._tracing, context) as trace, self._catalog.using(*target, key(context)) as served:
            if trace is not None:
                trace.tell(model=served.model, version=served.version, request=request.id)
            arrays = decode_payload(request.payload, served.signature)
            async with aclosing(served.parts(arrays, {}, deadline(context), trace)) as parts:
                async for part in parts:
                    scores, label = encode_answer(served.signature.outputs, part)
                    yield pb.PredictResponse(scores=scores, label=label, id=request.id).SerializeToString()

    def _target(self, request: Any) -> tuple[str, str | None]:
        """Model and version of `name`, `name/version`, or of nothing where there is one model."""
        name, _, version = request.model_id.partition("/")
        if name:
            return name, version or None
        models = self._catalog.models
        if len(models) != 1:
            raise InvalidRequestError(f"model_id is empty; there are {', '.join(model.name for model in models)}")
        return models[0].name, None


def explain(request: Any, error: InferenceError) -> bytes:
    """A request of a stream that failed: the stream goes on."""
    failed: bytes = pb.PredictResponse(id=request.id, error=str(error)).SerializeToString()
    return failed
