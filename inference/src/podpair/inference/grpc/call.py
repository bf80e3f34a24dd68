"""A call of gRPC's as methods see it, whichever server it came to: `http2_server`, `core_server` or `aio_server`."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from podpair.inference.grpc.status import Status

Headers = tuple[tuple[str, str], ...]


class CallEnded(Exception):
    """The call has ended with a status, or its client has gone: it can't be answered."""


class Call(Protocol):
    """One call. time_remaining, invocation_metadata, abort and write are as grpc.aio's."""

    # Whether nothing can be sent any more.
    done: bool
    # Called if the client leaves, or the deadline passes, before the call has ended; once at most.
    on_cancelled: Callable[[], object] | None
    # Called when it has ended, for whatever reason; once.
    on_done: Callable[[], object] | None

    def time_remaining(self) -> float | None:
        """Return the seconds until its deadline; None: it has none."""
        ...

    def invocation_metadata(self) -> Headers:
        """Return the metadata that came with it."""
        ...

    def answer(self, message: bytes) -> None:
        """Send the only answer, and the status OK; do nothing if the call is done."""
        ...

    def fail(self, code: Status, details: str = "", trailing: Headers = ()) -> None:
        """End the call with a status; do nothing if it is done."""
        ...


class CallLifecycle:
    """The end of a `Call`, the same for all servers."""

    __slots__ = ("done", "on_cancelled", "on_done")

    def __init__(self) -> None:
        self.done = False
        self.on_cancelled: Callable[[], object] | None = None
        self.on_done: Callable[[], object] | None = None

    def cancel(self) -> None:
        """End a call whose client has gone, or whose deadline has passed; do nothing if it is done."""
        if not self.done:
            on_cancelled, self.on_cancelled = self.on_cancelled, None
            self._finish()
            if on_cancelled is not None:
                on_cancelled()

    def _finish(self) -> None:
        self.done = True
        on_done, self.on_done = self.on_done, None
        if on_done is not None:
            on_done()


class MethodCall(CallLifecycle):
    """A `Call` as methods see it that are coroutines or generators: its messages, and its failure."""

    __slots__ = ("serialize",)

    def __init__(self) -> None:
        super().__init__()
        self.serialize: Callable[[Any], bytes] | None = None

    def fail(self, code: Status, details: str = "", trailing: Headers = ()) -> None:
        """End the call with a status; do nothing if it is done."""
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        """Send an encoded message, and wait until the client has room for more. Raises CallEnded if it has gone."""
        raise NotImplementedError

    async def next_message(self) -> bytes | None:
        """Return the next message of a call that goes on; None after the last, or if the client has gone."""
        raise NotImplementedError

    async def abort(self, code: Status, details: str = "", trailing_metadata: Headers = ()) -> None:
        """Fail the call as `fail` does. Raises CallEnded."""
        self.fail(code, details, trailing_metadata)
        raise CallEnded

    async def write(self, message: Any) -> None:
        """Send one of several answers, and wait until the client has room for more. Raises CallEnded if it has gone."""
        if self.done:
            raise CallEnded
        await self.send(message if self.serialize is None else self.serialize(message))

    async def read(self) -> bytes | None:
        """Return the next message; None after the last, or if the client has gone."""
        return None if self.done else await self.next_message()


# A method of one message that is called in the loop, without a task, and ends the call itself, now or later.
DirectMethod = Callable[[bytes, Call], None]


class RpcServer(Protocol):
    """A server. Methods are added as to grpc.aio's, or are called directly."""

    def add_direct(self, service: str, method: str, begin: DirectMethod) -> None:
        """Add a method of one message that is called in the loop."""
        ...

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Add methods; called by generated code."""
        ...

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Ignore the same methods, which generated code adds twice."""
        ...

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, once. Return the port. Raises RuntimeError if it is taken."""
        ...

    async def stop(self, seconds: float) -> None:
        """Accept no more calls, and end the present ones after `seconds`."""
        ...


async def decoded(handler: Any, context: Any, message: Any) -> Any:
    """Decode a message for the method; abort the call if it can't be decoded."""
    if handler.request_deserializer is None:
        return message
    try:
        return handler.request_deserializer(message)
    except Exception as error:  # protobuf's DecodeError has no stable home
        return await context.abort(Status.INVALID_ARGUMENT, f"the message can't be read: {error}")


async def messages(handler: Any, context: Any, given: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """Yield the decoded messages of a stream."""
    async for message in given:
        yield await decoded(handler, context, message)
