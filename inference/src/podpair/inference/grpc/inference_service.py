"""V2's GRPCInferenceService: the same as REST, in protobuf messages."""

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
from podpair.inference.grpc.call import Call
from podpair.inference.grpc.call_responder import CallResponder
from podpair.inference.grpc.calls import Calls, deadline, key, priority, start_trace, trace_call
from podpair.inference.grpc.proto import open_inference_pb2 as pb
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.tracing import RecordedTrace, Tracing

# Triton's names: marks the last answer to a request; asks for a last answer without tensors.
_FINAL = "triton_final_response"
_WANT_EMPTY_FINAL = "triton_enable_empty_final_response"
# The HTTP status of an error in a stream, whose text is all that Triton's message has.
_STATUS = "podpair_status"


class InferenceService:
    """The service's methods. infer and ModelStreamInfer exchange encoded messages, the others parsed ones."""

    def __init__(self, catalog: Catalog, calls: Calls, tracing: Tracing) -> None:
        self._catalog = catalog
        self._calls = calls
        self._tracing = tracing

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's own name, as below
        """Answer whether the loop turns."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer true from the end of the warm-up to the beginning of the shutdown."""
        return pb.ServerReadyResponse(ready=self._catalog.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer whether ModelInfer would be accepted."""
        try:
            with self._catalog.using(request.name, request.version or None, key(context)):
                return pb.ModelReadyResponse(ready=True)
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with name, version and extensions."""
        return ParseDict(documents.server(), pb.ServerMetadataResponse())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with the model's tensors."""
        found = self._catalog.described(request.name, request.version or None)
        return ParseDict(documents.metadata(*found), pb.ModelMetadataResponse())

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with how requests are batched."""
        found = self._catalog.described(request.name, request.version or None)
        return ParseDict({"config": documents.configuration(*found)}, pb.ModelConfigResponse())

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with counts and times."""
        document = documents.statistics(self._catalog, request.name or None, request.version or None)
        return ParseDict(document, pb.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """List what is served, and what isn't and why."""
        found = [entry for entry in self._catalog.index() if not request.ready or entry["state"] == "READY"]
        return ParseDict({"models": found}, pb.RepositoryIndexResponse())

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Load or reload a model from its current files."""
        if request.parameters:
            raise InvalidRequestError("a model is loaded as it is in the repository: parameters are not served")
        await self._catalog.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Unload a model."""
        await self._catalog.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def infer(self, message: bytes, call: Call) -> None:
        """Decode and queue a ModelInfer request. Raises InferenceError."""
        began = time.monotonic()
        trace = start_trace(self._tracing, call, began)
        try:
            self._queue(message, call, began, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            raise

    def _queue(self, message: bytes, call: Call, began: float, trace: RecordedTrace | None) -> None:
        head, raw = messages.parse(message)
        served = self._catalog.acquire(head.model, head.version or None, key(call))
        try:
            asked = messages.decode(head, raw, served.signature)
            entered = time.monotonic()
            served.metrics.ingress.observe(entered - began)
            if trace is not None:
                _about(trace, served, head)
                trace.stage("ingress", began, entered)
            responder = CallResponder(self._catalog, self._calls, call, served, partial(_encoded, served, asked), trace)
            responder.queued = served.scheduler.enqueue(
                asked.arrays, deadline(call), asked.parameters, responder, priority(call)
            )
            call.on_cancelled = responder.withdraw
        except BaseException:
            self._catalog.release(served)
            raise

    async def ModelStreamInfer(self, message: bytes, context: Any) -> AsyncGenerator[bytes, None]:  # noqa: N802
        """Answer one request of a stream, with one message or several; the last one says so if that is known."""
        head, raw = messages.parse(message)
        with (
            trace_call(self._tracing, context) as trace,
            self._catalog.using(head.model, head.version or None, key(context)) as served,
        ):
            asked = messages.decode(head, raw, served.signature)
            if trace is not None:
                _about(trace, served, head)
            name, version, outputs = served.model, served.version, served.signature.outputs
            alone = served.streams is None
            answer = served.stream(asked.arrays, asked.parameters, deadline(context), trace, priority(context))
            async with aclosing(answer) as chunks:
                async for chunk in chunks:
                    yield _streamed(messages.encode(name, version, asked, outputs, chunk, {_FINAL: alone}))
            if not alone and asked.parameters.get(_WANT_EMPTY_FINAL):
                asked.wanted = ()
                yield _streamed(messages.encode(name, version, asked, outputs, (), {_FINAL: True}))


def _encoded(served: ServedVersion, asked: InferRequest, arrays: Sequence[Array]) -> bytes:
    return messages.encode(served.model, served.version, asked, served.signature.outputs, arrays)


def _about(trace: RecordedTrace, served: ServedVersion, head: messages.Head) -> None:
    trace.annotate(model=served.model, version=served.version, request=head.id)


def encode_error(message: bytes, error: InferenceError) -> bytes:
    """Encode the error of one request of a stream: the stream goes on."""
    try:
        request = messages.parse(message)[0].request
    except InvalidRequestError:
        request = pb.ModelInferRequest()
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name, model_version=request.model_version)
    response.parameters[_FINAL].bool_param = True
    response.parameters[_STATUS].int64_param = error.status
    failed: bytes = pb.ModelStreamInferResponse(error_message=str(error), infer_response=response).SerializeToString()
    return failed


def _streamed(response: bytes) -> bytes:
    """Wrap an encoded ModelInferResponse in an encoded ModelStreamInferResponse."""
    return wire.append_fields(b"", pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER, [response])
