"""V2 over gRPC (Open Inference Protocol, GRPCInferenceService), with Triton's ModelConfig and ModelStreamInfer if it has them.

One channel for all: HTTP/2 carries the calls side by side. Messages cross as bytes (`upstream.grpc_messages` reads them), so that
gRPC does nothing with them. A call that is cancelled here is cancelled there.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterable
from urllib.parse import quote, urlsplit

import grpc

from podpair.common.gateway_config.model import Inference
from podpair.gateway.core.generate import chunk_of_outputs
from podpair.gateway.core.lanes import MIDDLE, PRIORITY_NAMES
from podpair.gateway.core.model_errors import Busy, Failed, Late, ServiceUnavailable, TooLarge, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest, shorthand_of
from podpair.gateway.core.retry_after import parse_retry_after
from podpair.gateway.core.shorthand import expand
from podpair.gateway.tracing import CURRENT
from podpair.gateway.upstream import grpc_messages
from podpair.gateway.upstream.calls import Answer, Call, CallAnswer, Chunk

_SERVICE = "/inference.GRPCInferenceService/"
_HEALTH = "/grpc.health.v1.Health/Check"
_RETRY_AFTER_MS = "podpair-retry-after-ms"
_PROBE_SECONDS = 2.0
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    # A model that was started anew is used as soon as it answers.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
_AWAY = "failed to connect to all addresses"
_LARGER = re.compile(r"[Rr]eceived message larger than max \(\d+ vs\. (\d+)\)")
_BROKEN = ("Socket closed", "Connection reset", "Broken pipe", "Stream removed", "GOAWAY", "EOF", "RST_STREAM")
_Metadata = tuple[tuple[str, str], ...]


def target_of(url: str) -> tuple[str, bool]:
    """Return the channel's target, and whether it is TLS: of `grpc://host:port`, `grpcs://host:port` or `unix:path`."""
    if url.startswith("unix:"):
        return url, False
    chunks = urlsplit(url)
    return chunks.netloc, chunks.scheme == "grpcs"


class GrpcUpstream:
    """One inference container that answers V2 over gRPC."""

    http = None

    def __init__(self, config: Inference) -> None:
        self.url = config.url
        self._timeout, self._timeouts = config.timeout_seconds, config.timeouts()
        self._limit = config.max_response_bytes
        target, secure = target_of(config.url)
        options = (*_OPTIONS, ("grpc.max_receive_message_length", min(self._limit, (1 << 31) - 1)))
        if secure:
            self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=options)
        self._infer = self._channel.unary_unary(_SERVICE + "ModelInfer")
        self._stream = self._channel.stream_stream(_SERVICE + "ModelStreamInfer")

    async def ready(self) -> bool:
        try:
            try:
                return grpc_messages.ready_of(await self._unary(_SERVICE + "ServerReady"))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    return False
                return await self._unary(_HEALTH) == grpc_messages.SERVING
        except (grpc.aio.AioRpcError, Failed):
            return False

    async def metrics(self) -> str:
        return ""  # V2 has none over gRPC

    async def model(self, name: str) -> Model:
        about = grpc_messages.about_model(name)
        try:
            metadata = await self._unary(_SERVICE + "ModelMetadata", about, self._timeout)
        except grpc.aio.AioRpcError as error:
            raise self._fault(error, None) from None
        try:
            config: bytes | None = await self._unary(_SERVICE + "ModelConfig", about, self._timeout)
        except grpc.aio.AioRpcError:
            config = None  # an extension that not every server has
        return grpc_messages.model_of_messages(name, metadata, config)

    async def _unary(self, method: str, message: bytes = b"", timeout: float = _PROBE_SECONDS) -> bytes:
        return bytes(await self._channel.unary_unary(method)(message, timeout=timeout))

    async def call(self, call: Call) -> CallAnswer:
        tensors = [
            (spec.name, spec.datatype, shape) for spec, shape in zip(call.model.inputs, call.shapes, strict=True)
        ]
        message = grpc_messages.request(call.model.name, tensors, call.raw, call.parameters, call.id)
        timeout = call.timeout or self._timeouts.get(call.model.name, self._timeout)
        answer = await self._ask(message, call.deadline, _about(call.key, call.lane), timeout)
        return CallAnswer(*grpc_messages.outputs_of(answer), None)

    async def infer(self, request: InferenceRequest, inputs: bytes, timeout: float) -> Answer:
        message = grpc_messages.request_of_inputs(
            request.model, inputs, request.parameters, request.id, version=request.version
        )
        about = _about(request.key, request.lane)
        outputs, version = grpc_messages.outputs_of(await self._ask(message, request.deadline, about, timeout))
        return Answer(grpc_messages.outputs_json(outputs), version, None)

    async def _ask(self, message: bytes, deadline: float | None, about: _Metadata, timeout: float) -> bytes:
        try:
            return bytes(await self._infer(message, timeout=_shorter(timeout, deadline), metadata=about))
        except grpc.aio.AioRpcError as error:
            raise self._fault(error, deadline, timeout) from None

    async def stream(self, request: InferenceRequest, model: Model) -> AsyncGenerator[Chunk, None]:
        inputs = request.inputs or expand(shorthand_of(request), model.only_input())[0]
        message = grpc_messages.request_of_inputs(
            model.name, inputs, request.parameters, request.id, version=request.version, one_row=model.batchable
        )
        patience = request.timeout or self._timeouts.get(request.model, self._timeout)
        left = None if request.deadline is None else max(request.deadline - time.time(), 0.001)
        call = self._stream(timeout=left, metadata=_about(request.key, request.lane))
        try:
            await call.write(message)
            await call.done_writing()
            while True:
                # The time limit is for each part: a long answer is not a slow one.
                async with asyncio.timeout(patience):
                    answer = await call.read()
                if answer is grpc.aio.EOF:
                    break
                outputs, version, last = grpc_messages.part_of_stream(answer)
                if outputs:
                    yield Chunk(chunk_of_outputs(outputs, model), version)
                if last:
                    return
        except TimeoutError:
            raise Late(f"no further part in {patience:.3g} s") from None
        except asyncio.InvalidStateError:
            # It ended before all was said: the reason is its status.
            status, why = await call.code(), str(await call.details() or "it closed the stream")
            raise self._error_of(status, why, await call.trailing_metadata() or (), request.deadline) from None
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise Fault(Code.NOT_FOUND, "the model does not answer in parts") from None
            raise self._fault(error, request.deadline) from None
        finally:
            call.cancel()

    async def chat(self, request: InferenceRequest, timeout: float) -> bytes:
        raise _no_chat()

    async def chat_stream(self, request: InferenceRequest) -> AsyncGenerator[bytes, None]:
        raise _no_chat()
        yield b""  # a generator, as the others are

    def _fault(self, error: grpc.aio.AioRpcError, deadline: float | None, timeout: float | None = None) -> Exception:
        """Convert an error to its meaning. timeout: of the call; unset: that of all."""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not _has_passed(deadline):
            return Late(f"no answer in {timeout or self._timeout:.3g} s")
        message = str(error.details() or error.code().name)
        return self._error_of(error.code(), message, error.trailing_metadata() or (), deadline)

    def _error_of(
        self, status: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, str | bytes]], deadline: float | None
    ) -> Exception:
        """Convert a status to the error that it means."""
        codes = grpc.StatusCode
        if status is codes.UNAVAILABLE:
            about = f"{self.url}: {message}"
            if _AWAY in message:
                return Unavailable(about, down=True)
            if any(sign in message for sign in _BROKEN):
                return Unavailable(about, midway=True)
            return ServiceUnavailable(about, _retry_after(metadata, 1.0))
        if status is codes.RESOURCE_EXHAUSTED:
            if (larger := _LARGER.search(message)) is not None:
                ours = "SERVER" not in message and int(larger[1]) == self._limit
                return TooLarge(self._limit) if ours else Fault(Code.INVALID, message)
            return Fault(Code.INVALID, message) if "larger than max" in message else Busy(_retry_after(metadata, 0.05))
        if status is codes.DEADLINE_EXCEEDED:
            if _has_passed(deadline):
                return Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was at work")
            return Late(f"no answer in {self._timeout:.3g} s")
        if status is codes.NOT_FOUND:
            return Fault(Code.NOT_FOUND, message)
        if status in (codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION, codes.OUT_OF_RANGE):
            return Fault(Code.INVALID, message)
        return Failed(message)

    async def close(self) -> None:
        await self._channel.close()


def _no_chat() -> Fault:
    return Fault(Code.NOT_FOUND, "chat completions are there where the model is asked over HTTP (inference.url)")


def _shorter(timeout: float, deadline: float | None) -> float:
    if deadline is None:
        return timeout
    left = deadline - time.time()
    if left <= 0:
        raise Fault(Code.DEADLINE_EXCEEDED, "the deadline had passed before the model was asked")
    return min(timeout, left)


def _about(key: str, lane: int) -> _Metadata:
    """Return the metadata that podpair's own container reads besides V2; others ignore it."""
    about = (("podpair-key", quote(key, safe="")),) if key else ()
    if lane != MIDDLE:
        about = (*about, ("podpair-priority", PRIORITY_NAMES[lane]))
    trace = CURRENT.get()
    return (*about, ("traceparent", trace)) if trace else about


def _retry_after(metadata: Iterable[tuple[str, str | bytes]], default: float) -> float:
    """Return the seconds to wait."""
    found = next((parse_retry_after(value, 0.001) for name, value in metadata if name == _RETRY_AFTER_MS), None)
    return default if found is None else found


def _has_passed(deadline: float | None) -> bool:
    return deadline is not None and deadline - time.time() <= 0.01
