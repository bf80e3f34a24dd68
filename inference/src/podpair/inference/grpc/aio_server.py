"""The gRPC server on grpc.aio, grpcio's own, which behaves the same with more CPU per call.

It is for a grpcio whose core isn't the one that `core_server` was written for, and for those who prefer it (`grpc.server: aio`).

Invariant: a call is ended once; everything happens in the loop's thread.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import grpc

from podpair.inference.grpc.call import CallEnded, CallLifecycle, DirectMethod, Headers, decoded, messages
from podpair.inference.grpc.status import Status


class _Failure(NamedTuple):
    code: Status
    details: str
    trailing: Headers


class AioCall(CallLifecycle):
    """A `Call` of a method that is called directly: its handler waits for `outcome`."""

    __slots__ = ("_context", "outcome")

    def __init__(self, context: Any) -> None:
        super().__init__()
        self._context = context
        self.outcome: asyncio.Future[bytes | _Failure] = asyncio.get_running_loop().create_future()

    def time_remaining(self) -> float | None:
        """See `Call`."""
        left: float | None = self._context.time_remaining()
        return left

    def invocation_metadata(self) -> Headers:
        """See `Call`."""
        return tuple(self._context.invocation_metadata() or ())

    def answer(self, message: bytes) -> None:
        """See `Call`."""
        self._end(message)

    def fail(self, code: Status, details: str = "", trailing: Headers = ()) -> None:
        """See `Call`."""
        self._end(_Failure(code, details, trailing))

    def _end(self, outcome: "bytes | _Failure") -> None:
        if not self.done:
            self.on_cancelled = None
            self.outcome.set_result(outcome)
            self._finish()


class AioServer:
    """The server; see `call.RpcServer`. options: the core's channel arguments."""

    def __init__(self, options: Mapping[str, int]) -> None:
        self._server = grpc.aio.server(options=tuple(options.items()))
        self._handlers: dict[str, dict[str, Any]] = {}
        self._stopped = False

    def add_direct(self, service: str, method: str, begin: DirectMethod) -> None:
        """See `call.RpcServer`."""

        async def handle(message: bytes, context: Any) -> bytes:
            call = AioCall(context)
            try:
                begin(message, call)
                outcome = await call.outcome
            except BaseException:
                call.cancel()
                raise
            if isinstance(outcome, bytes):
                return outcome
            await _Context(context).abort(outcome.code, outcome.details, outcome.trailing)
            raise CallEnded

        self._add(service, {method: grpc.unary_unary_rpc_method_handler(handle)})

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """See `call.RpcServer`."""
        self._add(service, {method: _adapted(handler) for method, handler in handlers.items()})

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """See `call.RpcServer`."""

    async def start(self, address: str) -> int:
        """See `call.RpcServer`."""
        if self._stopped:
            raise RuntimeError("it has been stopped")
        # Released grpcio differ in whether they raise or return 0.
        bound: int = self._server.add_insecure_port(address)
        if not bound:
            raise RuntimeError(f"can't listen on {address}")
        await self._server.start()
        return bound

    async def stop(self, seconds: float) -> None:
        """See `call.RpcServer`."""
        if not self._stopped:
            self._stopped = True
            await self._server.stop(seconds)

    def _add(self, service: str, handlers: dict[str, Any]) -> None:
        # Looked up at each call: methods may be added while it listens.
        known = self._handlers.get(service)
        if known is None:
            known = self._handlers[service] = {}
            self._server.add_generic_rpc_handlers((_Service(service, known),))
        known.update(handlers)


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of a service."""

    def __init__(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._prefix = f"/{service}/"
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method; None if there is none."""
        method = handler_call_details.method
        if isinstance(method, bytes):
            method = method.decode()
        return self._handlers.get(method.removeprefix(self._prefix)) if method.startswith(self._prefix) else None


class _Context:
    """A call's context, which takes our statuses, and whose `write` says by CallEnded that the client has gone."""

    def __init__(self, context: Any, serialize: Callable[[Any], bytes] | None = None) -> None:
        self._context = context
        self._serialize = serialize
        self.time_remaining = context.time_remaining
        self.invocation_metadata = context.invocation_metadata

    async def abort(self, code: Status, details: str = "", trailing_metadata: Headers = ()) -> None:
        """End the call with a status. Raises grpc.aio.AbortError."""
        await self._context.abort(grpc.StatusCode[code.name], details, trailing_metadata)

    async def write(self, message: Any) -> None:
        """Send one of several answers, and wait until the client has room for more. Raises CallEnded."""
        data = message if self._serialize is None else self._serialize(message)
        try:
            await self._context.write(data)
        except (grpc.aio.UsageError, grpc.aio.InternalError, grpc.RpcError):
            raise CallEnded from None


def _adapted(handler: Any) -> Any:
    """Adapt a handler of coroutines, and decode its messages here: a malformed one is the client's fault, not the server's."""
    if not (handler.request_streaming or handler.response_streaming):

        async def one(message: bytes, context: Any) -> bytes:
            adapter = _Context(context)
            response = await handler.unary_unary(await decoded(handler, adapter, message), adapter)
            return response if handler.response_serializer is None else handler.response_serializer(response)  # type: ignore[no-any-return]

        return grpc.unary_unary_rpc_method_handler(one)

    async def several(given: Any, context: Any) -> None:
        adapter = _Context(context, handler.response_serializer)
        if handler.request_streaming:
            answers = handler.stream_stream(messages(handler, adapter, _iterated(given)), adapter)
        else:
            answers = handler.unary_stream(await decoded(handler, adapter, given), adapter)
        try:
            if inspect.isasyncgen(answers):
                async for answer in answers:
                    await adapter.write(answer)
            else:
                await answers
        except CallEnded:
            pass

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(several)
    return grpc.unary_stream_rpc_method_handler(several)


async def _iterated(given: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for message in given:
        yield message
