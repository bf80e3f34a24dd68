"""A worker's way to the models of its server: calls over one connection, answered in any order.

Any thread sends; one thread receives, and hands answers to those who wait.
"""

import contextlib
import threading
from concurrent.futures import Future, InvalidStateError
from functools import partial
from itertools import count
from typing import Any

from podpair.inference.core.errors import UnavailableError
from podpair.inference.core.model_call import ModelAnswer, ModelCall
from podpair.inference.core.tensors import Array
from podpair.inference.core.worker_messages import Call, CallAnswer, CallFailure, MessageError, Withdraw
from podpair.inference.runtime.worker.channel import Channel
from podpair.inference.runtime.worker.failures import error_of

_GONE = "no other models can be called: the server loads only this one (validate, tune), or has ended"


class WorkerModelClient:
    """A `ModelClient` over `channel`, which it reads until the server has gone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._numbers = count()
        self._pending: dict[int, Future[ModelAnswer]] = {}
        threading.Thread(target=self._read, name="model-calls", daemon=True).start()

    def begin(self, call: ModelCall) -> "Future[ModelAnswer]":
        """See `ModelClient.begin`."""
        number = next(self._numbers)
        future: Future[ModelAnswer] = Future()
        self._pending[number] = future
        future.add_done_callback(partial(self._on_done, number))
        message = Call(number, call.model, call.version, tuple(call.names), call.parameters, call.context)
        try:
            with self._sending:
                self._channel.send(message, call.arrays)
        except OSError as error:
            self._pending.pop(number, None)
            raise UnavailableError(_GONE) from error
        except BaseException:
            self._pending.pop(number, None)
            raise
        return future

    def _on_done(self, number: int, future: "Future[ModelAnswer]") -> None:
        if self._pending.pop(number, None) is not None and future.cancelled():
            with contextlib.suppress(OSError), self._sending:
                self._channel.send(Withdraw(number))

    def _read(self) -> None:
        """Receive answers, until the server has gone (in a thread)."""
        with contextlib.suppress(OSError, EOFError, MessageError):
            while True:
                self._handle(*self._channel.receive())
        for number in list(self._pending):
            self._end(number, UnavailableError(_GONE))

    def _handle(self, message: Any, arrays: list[Array]) -> None:
        if isinstance(message, CallAnswer):
            self._end(message.call, ModelAnswer(message.names, arrays))
        elif isinstance(message, CallFailure):
            self._end(message.call, error_of(message.failure))

    def _end(self, number: int, outcome: ModelAnswer | Exception) -> None:
        # It may have been cancelled by now.
        future = self._pending.pop(number, None)
        if future is None:
            return
        with contextlib.suppress(InvalidStateError):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
