"""The way to the server's models for classes that run in threads of the server (`runtime.process: false`)."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from podpair.inference.core.errors import UnavailableError
from podpair.inference.core.model_call import ModelAnswer, ModelCall
from podpair.inference.runtime.protocol import ModelCaller


class LocalModelClient:
    """A `ModelClient` for threads other than that of `loop`, on which `caller` works."""

    def __init__(self, caller: ModelCaller, loop: asyncio.AbstractEventLoop) -> None:
        self._caller = caller
        self._loop = loop

    def begin(self, call: ModelCall) -> "Future[ModelAnswer]":
        """See `ModelClient.begin`."""
        future: Future[ModelAnswer] = Future()
        withdrawals: list[Callable[[], object]] = []

        def finish(outcome: ModelAnswer | Exception) -> None:
            # It may have been cancelled by now.
            with contextlib.suppress(InvalidStateError):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

        def start() -> None:
            if not future.cancelled():
                path = call.context.path
                withdrawals.append(self._caller.begin(call, path[-1] if path else "", finish))

        def withdraw() -> None:
            for each in withdrawals:
                each()

        def on_done(_: "Future[ModelAnswer]") -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(withdraw)

        future.add_done_callback(on_done)
        try:
            self._loop.call_soon_threadsafe(start)
        except RuntimeError:
            raise UnavailableError("the server has ended") from None
        return future
