"""A call of gRPC's as methods see it, whichever server it came to: the core's (`front`) or grpc.aio's (`aio_front`)."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc

Headers = tuple[tuple[str, str], ...]


class CallEnded(Exception):
    """The call has been ended with a status, or its client has gone: there is nobody to answer."""


class Call(Protocol):
    """One call. time_remaining, invocation_metadata, abort and write are as grpc.aio's."""

    # Nothing can be sent any more.
    over: bool
    # Called where the client leaves, or its deadline passes, before the call is ended; once at most.
    gone: Callable[[], object] | None
    # Called when it is ended, however that comes; once.
    ended: Callable[[], object] | None

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None: it has none."""
        ...

    def invocation_metadata(self) -> Headers:
        """What came with it."""
        ...

    def answer(self, message: bytes) -> None:
        """Send the one answer, and that all went well; nothing where it is over."""
        ...

    def fail(self, code: grpc.StatusCode, details: str = "", trailing: Headers = ()) -> None:
        """End it with a status; nothing where it is over."""
        ...


class Ending:
    """How a `Call` ends, whichever server it came to."""

    __slots__ = ("ended", "gone", "over")

    def __init__(self) -> None:
        self.over = False
        self.gone: Callable[[], object] | None = None
        self.ended: Callable[[], object] | None = None

    def leave(self) -> None:
        """The client has gone, or its deadline has passed; nothing where it is over."""
        if not self.over:
            gone, self.gone = self.gone, None
            self._over()
            if gone is not None:
                gone()

    def _over(self) -> None:
        self.over = True
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()


# A method of one message that is called in the loop, without a task, and ends the call itself, now or later.
Direct = Callable[[bytes, Call], None]


class Front(Protocol):
    """A server. Methods are added as to grpc.aio's, or are called directly."""

    def add_direct(self, service: str, method: str, begin: Direct) -> None:
        """A method of one message that is called in the loop."""
        ...

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """What generated code calls."""
        ...

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """What generated code calls as well, with the same."""
        ...

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, once; the port. Raises RuntimeError if it is taken."""
        ...

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and end those there are after so long."""
        ...


async def decoded(handler: Any, context: Any, message: Any) -> Any:
    """A message as the method takes it; the call is aborted where it can't be read."""
    if handler.request_deserializer is None:
        return message
    try:
        return handler.request_deserializer(message)
    except Exception as error:  # protobuf's DecodeError has no stable home
        return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the message can't be read: {error}")


async def messages(handler: Any, context: Any, given: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The messages of a stream as the method takes them."""
    async for message in given:
        yield await decoded(handler, context, message)
