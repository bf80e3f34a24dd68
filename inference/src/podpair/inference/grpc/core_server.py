"""A gRPC server whose calls belong to the asyncio loop, over the core that grpcio's own servers are written on.

grpcio has two servers in Python. The asyncio one wakes the loop through a pipe for each of a call's five events and makes
tasks and futures for them, 160 µs before anything is done; the other one gives each call a thread that waits. Here HTTP/2 is
the core's as well; above it one thread waits for events while the loop has none, then the loop handles
all there are, and a call costs a task only if its method is a coroutine (docs/benchmarks.md).

Invariant: except for the waiting thread, which touches nothing else, everything happens in the loop's thread; a call ends
once. `grpc._cython` is not public: no other module may use it, and its required behaviour is tested over the wire.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from grpc._cython import cygrpc

from podpair.inference.grpc.call import CallEnded, DirectMethod, Headers, MethodCall
from podpair.inference.grpc.methods import ONE_MESSAGE, Methods
from podpair.inference.grpc.status import Status

log = logging.getLogger(__name__)

# Calls that are requested of the core in advance.
_REQUESTED_CALLS = 16
# Events that are handled in one turn of the loop.
_EVENTS = 128
_NO_FLAGS = 0
# A deadline further away than this, in seconds, means none: the core has a time for "never".
_FOREVER = 1e9
_TIMEOUT, _SHUTDOWN = cygrpc.CompletionType.queue_timeout, cygrpc.CompletionType.queue_shutdown
_OK, _UNIMPLEMENTED = Status.OK, Status.UNIMPLEMENTED
# The other names that are used of the module: a grpcio without one of them can't be used by this server.
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
    """Return the names that this grpcio's core is missing."""
    return [name for name in _NEEDED if not hasattr(cygrpc, name)]


class CoreCall(MethodCall):
    """A `Call`, and the context of its method."""

    __slots__ = ("_began", "_call", "_deadline", "_metadata", "_server")

    def __init__(self, server: "CoreServer", event: Any) -> None:
        super().__init__()
        self._server = server
        self._call = event.call
        self._metadata: Headers = event.invocation_metadata
        # In Unix time.
        self._deadline: float = event.call_details.deadline
        self._began = False

    def time_remaining(self) -> float | None:
        """Return the seconds until its deadline; None: it has none."""
        left = self._deadline - time.time()
        return None if left > _FOREVER else max(0.0, left)

    def invocation_metadata(self) -> Headers:
        """Return the metadata that came with it."""
        return self._metadata

    def answer(self, message: bytes) -> None:
        """Send the only answer, and the status OK; do nothing if the call is done."""
        if not self.done:
            self._end((*self._head(), cygrpc.SendMessageOperation(message, _NO_FLAGS)), _OK, "", ())

    def finish(self) -> None:
        """Send the status OK, after what was written."""
        if not self.done:
            self._end(self._head(), _OK, "", ())

    def fail(self, code: Status, details: str = "", trailing: Headers = ()) -> None:
        """End the call with a status; do nothing if it is done."""
        if not self.done:
            self._end(self._head(), code, details, trailing)

    async def send(self, data: bytes) -> None:
        """See `MethodCall`."""
        event = await self._server.run_batch(self._call, (*self._head(), cygrpc.SendMessageOperation(data, _NO_FLAGS)))
        if not event.success:
            raise CallEnded

    async def next_message(self) -> bytes | None:
        """See `MethodCall`."""
        event = await self._server.run_batch(self._call, (cygrpc.ReceiveMessageOperation(_NO_FLAGS),))
        message: bytes | None = event.batch_operations[0].message()
        return message

    def receive(self, begin: DirectMethod) -> None:
        """Have `begin` called with the one message."""

        def given(event: Any) -> None:
            message = event.batch_operations[0].message()
            if message is None:
                self.fail(_UNIMPLEMENTED, ONE_MESSAGE)
            elif not self.done:
                begin(message, self)

        self._server.start_batch(self._call, (cygrpc.ReceiveMessageOperation(_NO_FLAGS),), given)

    def on_close(self, event: Any) -> None:
        """Handle the core's event that the call is over: the client has everything, or has gone."""
        if event.batch_operations[0].cancelled():
            self.cancel()

    def _head(self) -> tuple[Any, ...]:
        if self._began:
            return ()
        self._began = True
        return (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),)

    def _end(self, operations: tuple[Any, ...], code: Status, details: str, trailing: Headers) -> None:
        status = cygrpc.SendStatusFromServerOperation(trailing, int(code), details.encode(), _NO_FLAGS)
        self._server.start_batch(self._call, (*operations, status), _ignore)
        self.on_cancelled = None
        self._finish()


class CoreServer(Methods):
    """The server. options: the core's channel arguments.

    Methods are added as to grpc.aio's: handlers of coroutines, or of async generators if there are several answers; or they are
    called directly, with the encoded message, and end the call themselves, now or later.
    """

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options.items()), False)
        self._server.register_completion_queue(self._queue)
        self._thread: threading.Thread | None = None
        # Held while the loop drains events: the thread waits for it.
        self._draining = threading.Lock()
        self._stopping = False
        # Done when all calls of the core are done, and when it has no events any more.
        self._idle: asyncio.Future[None] = self._loop.create_future()
        self._empty: asyncio.Future[None] = self._loop.create_future()

    # Lifecycle.

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, once. Return the port. Raises RuntimeError if it is taken."""
        if self._stopping:
            raise RuntimeError("it has been stopped")
        bound = int(self._server.add_http2_port(address.encode()))
        if not bound:
            raise RuntimeError(f"can't listen on {address}")
        self._server.start()
        for _ in range(_REQUESTED_CALLS):
            self._request_call()
        self._draining.acquire()
        self._thread = threading.Thread(target=self._wait_for_events, name="grpc", daemon=True)
        self._thread.start()
        return bound

    async def stop(self, seconds: float) -> None:
        """Accept no more calls, and end the present ones after `seconds`."""
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

    # Called by calls.

    def start_batch(self, call: Any, operations: tuple[Any, ...], tag: Callable[[Any], object]) -> None:
        """Have the core do something; `tag` is called with the event when it is done."""
        call.start_server_batch(operations, tag)

    async def run_batch(self, call: Any, operations: tuple[Any, ...]) -> Any:
        """Start a batch as `start_batch` does. Return its event."""
        done = self._loop.create_future()

        def tell(event: Any) -> None:
            if not done.done():
                done.set_result(event)

        self.start_batch(call, operations, tell)
        return await done

    # Events.

    def _request_call(self) -> None:
        self._server.request_call(self._queue, self._queue, self._on_new_call)

    def _wait_for_events(self) -> None:
        """Wait for an event, pass it to the loop, and wait until the loop has drained the rest (in the thread)."""
        while True:
            event = self._queue.poll()
            ended = event.completion_type == _SHUTDOWN
            # The loop may be gone after a stop that didn't wait.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._drain_events, event)
            if ended:
                return
            del event  # it may hold the last reference to a call
            self._draining.acquire()

    def _drain_events(self, event: Any) -> None:
        """Handle an event and those that have come since, until a turn of the loop has brought none."""
        for handled in range(_EVENTS):
            if event.completion_type == _SHUTDOWN:
                # Each caller of `poll` gets this event: the loop, and the thread, which ends then.
                if not self._empty.done():
                    self._empty.set_result(None)
                    self._draining.release()
                return
            if event.completion_type == _TIMEOUT:
                if handled:
                    # After the work that they caused, mostly a run: being woken by the thread costs more than polling again.
                    self._loop.call_soon(self._poll)
                else:
                    self._draining.release()
                return
            try:
                event.tag(event)
            except Exception:
                log.exception("an event of gRPC's core failed")
            event = self._queue.poll(0)
        self._loop.call_soon(self._drain_events, event)

    def _poll(self) -> None:
        self._drain_events(self._queue.poll(0))

    def _on_new_call(self, event: Any) -> None:
        """Start a call that has come, unless the server is shutting down."""
        if not event.success:
            return
        if not self._stopping:
            self._request_call()
        call = CoreCall(self, event)
        self.start_batch(event.call, (cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), call.on_close)
        self.begin(event.call_details.method, call)


def _ignore(event: Any) -> None:
    """Ignore an event: nothing is left to do after sending."""
