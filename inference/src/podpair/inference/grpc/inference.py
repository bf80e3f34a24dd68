"""V2's GRPCInferenceService: what REST answers, in messages."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from google.protobuf.json_format import ParseDict

from podpair.inference import documents
from podpair.inference.core import wire
from podpair.inference.core.errors import InferenceError, InvalidRequestError, NotFoundError, UnavailableError
from podpair.inference.core.tensors import Array
from podpair.inference.core.v2 import InferRequest
from podpair.inference.grpc import messages
from podpair.inference.grpc.answering import CallAnswering
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.calls import Calls, begun, deadline, key, traced
from podpair.inference.grpc.proto import open_inference_pb2 as pb
from podpair.inference.runtime.catalog import Catalog, ServedVersion
from podpair.inference.tracing import Recorded, Tracing

# Triton's names: the last answer to a request, and the wish for one without tensors at the end.
_FINAL = "triton_final_response"
_WANT_EMPTY_FINAL = "triton_enable_empty_final_response"


class InferenceService:
    """The service's methods. infer and ModelStreamInfer take and give encoded messages, the others parsed ones."""

    def __init__(self, catalog: Catalog, calls: Calls, tracing: Tracing) -> None:
        self._catalog = catalog
        self._calls = calls
        self._tracing = tracing

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's own name, as below
        """Whether the loop turns."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """From the end of the warm-up to the beginning of the stop."""
        return pb.ServerReadyResponse(ready=self._catalog.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether ModelInfer would be taken."""
        try:
            with self._catalog.using(request.name, request.version or None, key(context)):
                return pb.ModelReadyResponse(ready=True)
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Name, version, extensions."""
        return ParseDict(documents.server(), pb.ServerMetadataResponse())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The model's tensors."""
        found = self._catalog.described(request.name, request.version or None)
        return ParseDict(documents.metadata(*found), pb.ModelMetadataResponse())

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """How requests are batched."""
        found = self._catalog.described(request.name, request.version or None)
        return ParseDict({"config": documents.configuration(*found)}, pb.ModelConfigResponse())

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Counts and times."""
        document = documents.statistics(self._catalog, request.name or None, request.version or None)
        return ParseDict(document, pb.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What is served, and what isn't and why."""
        found = [entry for entry in self._catalog.index() if not request.ready or entry["state"] == "READY"]
        return ParseDict({"models": found}, pb.RepositoryIndexResponse())

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Load a model as it lies there now, or exchange it."""
        if request.parameters:
            raise InvalidRequestError("a model is loaded as it lies in the repository: parameters are not served")
        await self._catalog.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Serve a model no longer."""
        await self._catalog.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def infer(self, message: bytes, call: Call) -> None:
        """ModelInfer: decode and queue it. Raises InferenceError."""
        began = time.monotonic()
        trace = begun(self._tracing, call, began)
        try:
            self._queue(message, call, began, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            raise

    def _queue(self, message: bytes, call: Call, began: float, trace: Recorded | None) -> None:
        request, raw = messages.parse(message)
        served = self._catalog.take(request.model_name, request.model_version or None, key(call))
        try:
            asked = messages.decode(request, raw, served.signature)
            entered = time.monotonic()
            served.metrics.ingress.observe(entered - began)
            if trace is not None:
                _about(trace, served, request)
                trace.stage("ingress", began, entered)
            answering = CallAnswering(self._catalog, self._calls, call, served, partial(_encoded, served, asked), trace)
            answering.queued = served.scheduler.enqueue(asked.arrays, deadline(call), asked.parameters, answering)
            call.gone = answering.withdraw
        except BaseException:
            self._catalog.release(served)
            raise

    async def ModelStreamInfer(self, message: bytes, context: Any) -> AsyncGenerator[bytes, None]:  # noqa: N802
        """One request of a stream: its answer, or its answer's parts; the last one says so where that is known."""
        request, raw = messages.parse(message)
        with (
            traced(self._tracing, context) as trace,
            self._catalog.using(request.model_name, request.model_version or None, key(context)) as served,
        ):
            asked = messages.decode(request, raw, served.signature)
            if trace is not None:
                _about(trace, served, request)
            name, version, outputs = served.model, served.version, served.signature.outputs
            alone = served.streams is None
            async with aclosing(served.parts(asked.arrays, asked.parameters, deadline(context), trace)) as parts:
                async for part in parts:
                    yield _streamed(messages.encode(name, version, asked, outputs, part, {_FINAL: alone}))
            if not alone and asked.parameters.get(_WANT_EMPTY_FINAL):
                asked.wanted = ()
                yield _streamed(messages.encode(name, version, asked, outputs, (), {_FINAL: True}))


def _encoded(served: ServedVersion, asked: InferRequest, arrays: Sequence[Array]) -> bytes:
    return messages.encode(served.model, served.version, asked, served.signature.outputs, arrays)


def _about(trace: Recorded, served: ServedVersion, request: Any) -> None:
    trace.tell(model=served.model, version=served.version, request=request.id)


def explain(message: bytes, error: InferenceError) -> bytes:
    """A request of a stream that failed: the stream goes on."""
    try:
        request, _ = messages.parse(message)
    except InvalidRequestError:
        request = pb.ModelInferRequest()
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name, model_version=request.model_version)
    response.parameters[_FINAL].bool_param = True
    failed: bytes = pb.ModelStreamInferResponse(error_message=str(error), infer_response=response).SerializeToString()
    return failed


def _streamed(response: bytes) -> bytes:
    """An encoded ModelStreamInferResponse around an encoded ModelInferResponse."""
    return wire.put(b"", pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER, [response])
