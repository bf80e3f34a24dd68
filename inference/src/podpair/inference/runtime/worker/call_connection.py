"""The server's end of the connection over which a worker calls other models: read and written by the serving loop itself.

A call costs the server no thread: what comes is decoded in the loop, and goes into the called model's queue in the same turn.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np

from podpair.inference.core.model_call import ModelAnswer, ModelCall
from podpair.inference.core.tensors import Array
from podpair.inference.core.worker_messages import (
    PREFIX,
    Call,
    CallAnswer,
    CallFailure,
    MessageError,
    Withdraw,
    decode,
    encode,
    lengths,
)
from podpair.inference.runtime.protocol import ModelCaller
from podpair.inference.runtime.worker.failures import failure_of

log = logging.getLogger(__name__)


class CallServer:
    """Serves the calls of workers on a loop, by what calls the models of that."""

    def __init__(self, caller: ModelCaller, loop: asyncio.AbstractEventLoop) -> None:
        self._caller = caller
        self._loop = loop

    def connect(self, connection: socket.socket, model: str) -> None:
        """Serve the connection of a model's process, called in another thread. Raises RuntimeError if the loop has ended."""
        made = self._loop.create_unix_connection(lambda: CallConnection(model, self._caller), sock=connection)
        try:
            future = asyncio.run_coroutine_threadsafe(made, self._loop)
        except RuntimeError:
            made.close()  # nobody awaits it
            raise
        future.result()


class CallConnection(asyncio.Protocol):
    """The calls of one worker process of a model. When that ends its calls are withdrawn."""

    def __init__(self, model: str, caller: ModelCaller) -> None:
        self._model = model
        self._caller = caller
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        # Call → what withdraws it.
        self._open: dict[int, Callable[[], object]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            while (frame := self._frame()) is not None:
                self._handle(*frame)
        except MessageError:
            log.exception("a model's process sent what is no call", extra={"model": self._model})
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        while self._open:
            _, withdraw = self._open.popitem()
            withdraw()

    def _frame(self) -> tuple[Any, list[Array]] | None:
        """Return the next frame, decoded, once all of it is there. Raises MessageError."""
        data = self._data
        if len(data) < PREFIX.size:
            return None
        head, body = lengths(data[: PREFIX.size])
        middle = PREFIX.size + head
        if len(data) < middle + body:
            return None
        raw = np.frombuffer(data[middle : middle + body], np.uint8)
        frame = decode(data[PREFIX.size : middle], raw)
        del data[: middle + body]
        return frame

    def _handle(self, message: Any, arrays: list[Array]) -> None:
        if isinstance(message, Withdraw):
            withdraw = self._open.pop(message.call, None)
            if withdraw is not None:
                withdraw()
        elif isinstance(message, Call):
            number = message.call
            call = ModelCall(message.model, message.version, message.names, arrays, message.parameters, message.context)
            # It may be answered before `begin` returns.
            self._open[number] = lambda: None
            withdraw = self._caller.begin(call, self._model, partial(self._answer, number))
            if number in self._open:
                self._open[number] = withdraw

    def _answer(self, number: int, outcome: ModelAnswer | Exception) -> None:
        if self._open.pop(number, None) is None or self._transport is None:
            return
        if isinstance(outcome, Exception):
            self._transport.writelines(encode(CallFailure(number, failure_of(outcome))))
        else:
            self._transport.writelines(encode(CallAnswer(number, tuple(outcome.names)), outcome.arrays))
