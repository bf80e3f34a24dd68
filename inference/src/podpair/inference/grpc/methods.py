"""A server's methods: those that are called directly, and those that are coroutines or generators, each call a task."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol

from podpair.inference.grpc.call import Call, CallEnded, DirectMethod, Headers, decoded, messages
from podpair.inference.grpc.status import Status

log = logging.getLogger(__name__)

ONE_MESSAGE = "the method takes exactly one message"


class ServerCall(Call, Protocol):
    """A call, and the context of its method."""

    serialize: Callable[[Any], bytes] | None

    def receive(self, begin: DirectMethod) -> None:
        """Have `begin` called with the one message."""
        ...

    def finish(self) -> None:
        """Send the status OK, after what was written."""
        ...

    async def abort(self, code: Status, details: str = "", trailing_metadata: Headers = ()) -> None:
        """Fail the call as `fail` does. Raises CallEnded."""
        ...

    async def write(self, message: Any) -> None:
        """Send one of several answers, and wait until the client has room for more. Raises CallEnded if it has gone."""
        ...

    async def read(self) -> bytes | None:
        """Return the next message; None after the last, or if the client has gone."""
        ...


class Methods:
    """Methods by their path, and the tasks of calls."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Method → what begins a call of it.
        self._methods: dict[bytes, Callable[[Any], None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add_direct(self, service: str, method: str, begin: DirectMethod) -> None:
        """Add a method of one message that is called in the loop, without a task."""

        def start(call: ServerCall) -> None:
            call.receive(begin)

        self._methods[f"/{service}/{method}".encode()] = start

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add methods; called by generated code."""
        for method, handler in handlers.items():
            several = handler.request_streaming or handler.response_streaming
            run = self._serve_stream if several else self._serve_unary
            self._methods[f"/{service}/{method}".encode()] = self._as_task(run, handler)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Ignore the same methods, which generated code adds twice."""

    def begin(self, method: bytes, call: ServerCall) -> None:
        """Begin a call; one of an unknown method fails."""
        start = self._methods.get(method)
        if start is None:
            call.fail(Status.UNIMPLEMENTED, "Method not found!")
        else:
            start(call)

    def _as_task(
        self, run: Callable[[Any, ServerCall], Coroutine[Any, Any, None]], handler: Any
    ) -> Callable[[Any], None]:
        def start(call: Any) -> None:
            call.serialize = handler.response_serializer
            task = self._loop.create_task(self._guarded(run, handler, call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            call.on_cancelled = task.cancel

        return start

    async def _guarded(
        self, run: Callable[[Any, ServerCall], Coroutine[Any, Any, None]], handler: Any, call: ServerCall
    ) -> None:
        try:
            await run(handler, call)
        except CallEnded:
            pass
        except Exception:
            log.exception("a method of gRPC failed")
            call.fail(Status.UNKNOWN, "an internal error; the container's log has it")

    async def _serve_unary(self, handler: Any, call: ServerCall) -> None:
        """Serve a method of one message and one answer."""
        message = await call.read()
        if message is None:
            await call.abort(Status.UNIMPLEMENTED, ONE_MESSAGE)
        response = await handler.unary_unary(await decoded(handler, call, message), call)
        call.answer(response if handler.response_serializer is None else handler.response_serializer(response))

    async def _serve_stream(self, handler: Any, call: ServerCall) -> None:
        """Serve a method of several messages or answers, or both."""
        if handler.request_streaming:
            answers = handler.stream_stream(messages(handler, call, _read(call)), call)
        else:
            message = await call.read()
            if message is None:
                await call.abort(Status.UNIMPLEMENTED, ONE_MESSAGE)
            answers = handler.unary_stream(await decoded(handler, call, message), call)
        if inspect.isasyncgen(answers):
            async for answer in answers:
                await call.write(answer)
        else:
            await answers
        call.finish()


async def _read(call: ServerCall) -> AsyncIterator[bytes]:
    while (message := await call.read()) is not None:
        yield message
