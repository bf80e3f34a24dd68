"""A gRPC server whose calls belong to the asyncio loop, over the core that grpcio's own servers are written on.

grpcio has two servers in Python. The asyncio one wakes the loop through a pipe for each of a call's five events and makes
tasks and futures for them, 160 µs before anything is done; the other one gives each call a thread that waits. Here HTTP/2 is
the core's as well, and what is above it is this: one thread waits for events while the loop has none, then the loop takes all
there are, and a call costs a task only where its method is a coroutine (docs/benchmarks.md).

Invariant: but for the waiting thread, which touches nothing else, everything happens in the loop's thread; a call is ended
once. `grpc._cython` is not public: no other module may use it, and what it must do is tested over the wire.
"""

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import grpc
from grpc._cython import cygrpc

from podpair.inference.grpc.call import CallEnded, Direct, Ending, Headers, decoded, messages

log = logging.getLogger(__name__)

# Calls that the core may announce before it is asked for more.
_ANNOUNCED = 16
# Events that are taken in one turn of the loop.
_EVENTS = 128
_NO_FLAGS = 0
# A deadline that is further away than this, in seconds, is none: the core has a time for "never".
_FOREVER = 1e9
_TIMEOUT, _SHUTDOWN = cygrpc.CompletionType.queue_timeout, cygrpc.CompletionType.queue_shutdown
_ONE = "the method takes exactly one message"
_OK, _UNIMPLEMENTED = grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED
# All else that is used of the module: a grpcio without one of them isn't for this server.
_NEEDED = (
    "CompletionQueue",
    "ReceiveCloseOnServerOperation",
    "ReceiveMessageOperation",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
    "SendStatusFromServerOperation",
    "Server",
)


def missing() -> list[str]:
    """What this grpcio's core lacks."""
    return [name for name in _NEEDED if not hasattr(cygrpc, name)]


class CoreCall(Ending):
    """A `Call`, and the context of its method."""

    __slots__ = ("_began", "_call", "_deadline", "_front", "_metadata", "serialize")

    def __init__(self, front: "CoreFront", event: Any) -> None:
        super().__init__()
        self._front = front
        self._call = event.call
        self._metadata: Headers = event.invocation_metadata
        # In Unix time.
        self._deadline: float = event.call_details.deadline
        self._began = False
        self.serialize: Callable[[Any], bytes] | None = None

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None: it has none."""
        left = self._deadline - time.time()
        return None if left > _FOREVER else max(0.0, left)

    def invocation_metadata(self) -> Headers:
        """What came with it."""
        return self._metadata

    def answer(self, message: bytes) -> None:
        """Send the one answer, and that all went well; nothing where it is over."""
        if not self.over:
            self._end((*self._head(), cygrpc.SendMessageOperation(message, _NO_FLAGS)), _OK, "", ())

    def finish(self) -> None:
        """Say that all went well, after what was written."""
        if not self.over:
            self._end(self._head(), _OK, "", ())

    def fail(self, code: grpc.StatusCode, details: str = "", trailing: Headers = ()) -> None:
        """End it with a status; nothing where it is over."""
        if not self.over:
            self._end(self._head(), code, details, trailing)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Headers = ()) -> None:
        """As `fail`. Raises CallEnded."""
        self.fail(code, details, trailing_metadata)
        raise CallEnded

    async def write(self, message: Any) -> None:
        """Send one of several answers, and wait until the client has room for more. Raises CallEnded where it has gone."""
        if self.over:
            raise CallEnded
        data = message if self.serialize is None else self.serialize(message)
        event = await self._front.wait(self._call, (*self._head(), cygrpc.SendMessageOperation(data, _NO_FLAGS)))
        if not event.success:
            raise CallEnded

    async def read(self) -> bytes | None:
        """The next message; None after the last, or where the client has gone."""
        if self.over:
            return None
        event = await self._front.wait(self._call, (cygrpc.ReceiveMessageOperation(_NO_FLAGS),))
        message: bytes | None = event.batch_operations[0].message()
        return message

    def receive(self, begin: Direct) -> None:
        """Have `begin` called with the one message."""

        def given(event: Any) -> None:
            message = event.batch_operations[0].message()
            if message is None:
                self.fail(_UNIMPLEMENTED, _ONE)
            elif not self.over:
                begin(message, self)

        self._front.begin(self._call, (cygrpc.ReceiveMessageOperation(_NO_FLAGS),), given)

    def closed(self, event: Any) -> None:
        """The core says that it is over: the client has all, or has gone."""
        if event.batch_operations[0].cancelled():
            self.leave()

    def _head(self) -> tuple[Any, ...]:
        if self._began:
            return ()
        self._began = True
        return (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),)

    def _end(self, operations: tuple[Any, ...], code: grpc.StatusCode, details: str, trailing: Headers) -> None:
        status = cygrpc.SendStatusFromServerOperation(trailing, code.value[0], details.encode(), _NO_FLAGS)
        self._front.begin(self._call, (*operations, status), _nothing)
        self.gone = None
        self._over()


class CoreFront:
    """The server. options: the core's channel arguments.

    Methods are added as to grpc.aio's: handlers of coroutines, or of async generators where answers are several; or they are
    called directly, with the encoded message, and end the call themselves, now or later.
    """

    def __init__(self, options: Mapping[str, int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options.items()), False)
        self._server.register_completion_queue(self._queue)
        # Method → what begins a call of it.
        self._methods: dict[bytes, Callable[[CoreCall], None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        # Held while the loop takes events: the thread waits for it.
        self._taking = threading.Lock()
        self._stopping = False
        # Nothing more can be asked of the core: done when all its calls are over, and when it has no events any more.
        self._idle: asyncio.Future[None] = self._loop.create_future()
        self._empty: asyncio.Future[None] = self._loop.create_future()

    # Methods.

    def add_direct(self, service: str, method: str, begin: Direct) -> None:
        """A method of one message that is called in the loop, without a task."""

        def start(call: CoreCall) -> None:
            call.receive(begin)

        self._methods[f"/{service}/{method}".encode()] = start

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """What generated code calls."""
        for method, handler in handlers.items():
            several = handler.request_streaming or handler.response_streaming
            run = self._several if several else self._one
            self._methods[f"/{service}/{method}".encode()] = self._in_a_task(run, handler)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """What generated code calls as well, with the same."""

    # Its life.

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, once; the port. Raises RuntimeError if it is taken."""
        if self._stopping:
            raise RuntimeError("it has been stopped")
        bound = int(self._server.add_http2_port(address.encode()))
        if not bound:
            raise RuntimeError(f"can't listen on {address}")
        self._server.start()
        for _ in range(_ANNOUNCED):
            self._announce()
        self._taking.acquire()
        self._thread = threading.Thread(target=self._wait, name="grpc", daemon=True)
        self._thread.start()
        return bound

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and end those there are after so long."""
        if self._thread is None:
            return
        self._stopping = True
        self._server.shutdown(self._queue, lambda event: self._idle.set_result(None))
        try:
            await asyncio.wait_for(asyncio.shield(self._idle), seconds)
        except TimeoutError:
            self._server.cancel_all_calls()
            await self._idle
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.destroy()
        self._queue.shutdown()
        await self._empty
        self._thread.join()
        self._thread = None

    # What calls ask for.

    def begin(self, call: Any, operations: tuple[Any, ...], tag: Callable[[Any], object]) -> None:
        """Have the core do something; `tag` is called with the event when it is done."""
        call.start_server_batch(operations, tag)

    async def wait(self, call: Any, operations: tuple[Any, ...]) -> Any:
        """As `begin`; the event."""
        done = self._loop.create_future()

        def tell(event: Any) -> None:
            if not done.done():
                done.set_result(event)

        self.begin(call, operations, tell)
        return await done

    # Events.

    def _announce(self) -> None:
        self._server.request_call(self._queue, self._queue, self._begin)

    def _wait(self) -> None:
        """In the thread: wait for an event, give it to the loop, and wait until that has taken what came behind it."""
        while True:
            event = self._queue.poll()
            ended = event.completion_type == _SHUTDOWN
            # The loop may be gone after a stop that didn't wait.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take, event)
            if ended:
                return
            del event  # it may hold the last reference to a call
            self._taking.acquire()

    def _take(self, event: Any) -> None:
        """Handle an event and those that have come since, until a turn of the loop has brought none."""
        for handled in range(_EVENTS):
            if event.completion_type == _SHUTDOWN:
                # The core says so to whoever asks: to the loop, and to the thread, which ends then.
                if not self._empty.done():
                    self._empty.set_result(None)
                    self._taking.release()
                return
            if event.completion_type == _TIMEOUT:
                if handled:
                    # After what they have set off, a run mostly: to be woken by the thread costs more than to look again.
                    self._loop.call_soon(self._look)
                else:
                    self._taking.release()
                return
            try:
                event.tag(event)
            except Exception:
                log.exception("an event of gRPC's core failed")
            event = self._queue.poll(0)
        self._loop.call_soon(self._take, event)

    def _look(self) -> None:
        self._take(self._queue.poll(0))

    def _begin(self, event: Any) -> None:
        """A call has come, or none will."""
        if not event.success:
            return
        if not self._stopping:
            self._announce()
        call = CoreCall(self, event)
        self.begin(event.call, (cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), call.closed)
        start = self._methods.get(event.call_details.method)
        if start is None:
            call.fail(_UNIMPLEMENTED, "Method not found!")
        else:
            start(call)

    # Methods that are coroutines.

    def _in_a_task(
        self, run: Callable[[Any, CoreCall], Coroutine[Any, Any, None]], handler: Any
    ) -> Callable[[CoreCall], None]:
        def start(call: CoreCall) -> None:
            call.serialize = handler.response_serializer
            task = self._loop.create_task(self._guarded(run(handler, call), call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            call.gone = task.cancel

        return start

    async def _guarded(self, work: Coroutine[Any, Any, None], call: CoreCall) -> None:
        try:
            await work
        except CallEnded:
            pass
        except Exception:
            log.exception("a method of gRPC failed")
            call.fail(grpc.StatusCode.UNKNOWN, "an internal error; the container's log has it")

    async def _one(self, handler: Any, call: CoreCall) -> None:
        """One message, one answer."""
        message = await call.read()
        if message is None:
            await call.abort(_UNIMPLEMENTED, _ONE)
        response = await handler.unary_unary(await decoded(handler, call, message), call)
        call.answer(response if handler.response_serializer is None else handler.response_serializer(response))

    async def _several(self, handler: Any, call: CoreCall) -> None:
        """Several messages or answers, or both."""
        if handler.request_streaming:
            answers = handler.stream_stream(messages(handler, call, _read(call)), call)
        else:
            message = await call.read()
            if message is None:
                await call.abort(_UNIMPLEMENTED, _ONE)
            answers = handler.unary_stream(await decoded(handler, call, message), call)
        if inspect.isasyncgen(answers):
            async for answer in answers:
                await call.write(answer)
        else:
            await answers
        call.finish()


async def _read(call: CoreCall) -> AsyncIterator[bytes]:
    while (message := await call.read()) is not None:
        yield message


def _nothing(event: Any) -> None:
    """What is sent needs no more."""
