"""One worker process as a `Runtime`: from its start to its end, which is final.

A run uses one of the connections alone until it is answered; streams share the one for control, whose reader and writer are
threads of their own: the serving loop waits for no socket. A call that takes too long ends the process.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import InferenceError, ModelEndedError, ModelError, ModelRestartingError
from podpair.inference.core.model_config import RuntimeConfig
from podpair.inference.core.request_context import current
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.core.worker_messages import (
    AskReady,
    Begin,
    Cancel,
    End,
    Failure,
    Faults,
    Load,
    Loaded,
    MessageError,
    More,
    Ready,
    Run,
    Tensor,
)
from podpair.inference.core.worker_messages import Chunk as StreamChunk
from podpair.inference.runtime.stream_bridge import WINDOW, StreamBridge
from podpair.inference.runtime.worker.call_connection import CallServer
from podpair.inference.runtime.worker.channel import Channel
from podpair.inference.runtime.worker.failures import error_of
from podpair.inference.runtime.worker.process import WorkerProcess

log = logging.getLogger(__name__)

Answers = list[Array]

# Chunks of a stream between the two processes, besides as many in the worker; more are requested once so many were read.
_WINDOW = WINDOW // 2
_AT_ONCE = _WINDOW // 2
# How long a stream that was cancelled for being late may take to end.
_CANCEL_SECONDS = 5.0


class WorkerRuntime:
    """A class in a process of its own. Raises FaultsError if it can't be started or loaded.

    model: for messages. load: what it loads. calls: serves its calls to other models, if there are some. on_start: called
    before it loads, with its process. on_end: called once that has ended, in a thread of its own.
    """

    platform = "python"
    inline = False
    calls_models = True

    def __init__(
        self,
        model: str,
        load: Load,
        config: RuntimeConfig,
        calls: CallServer | None,
        on_start: Callable[[WorkerProcess], object],
        on_end: Callable[["WorkerRuntime"], object],
    ) -> None:
        self._model = model
        self._timeout = config.timeout_seconds
        self.instances = config.instances or 1
        self._on_end = on_end
        self._streams: dict[int, StreamBridge[Answers]] = {}
        self._asked: dict[int, Future[str | None]] = {}
        self._numbers = count()
        self._outbox: SimpleQueue[tuple[Any, Sequence[Array]]] = SimpleQueue()
        self._calls: SimpleQueue[Channel] = SimpleQueue()
        # Set once the control connection isn't used any more.
        self._control_is_free = threading.Event()
        try:
            self.process = WorkerProcess(load.name, self.instances, self._on_process_end)
        except OSError as error:
            raise FaultsError([f"{load.path}: its process can't be started: {error}"]) from None
        for call in self.process.calls:
            call.set_timeout(self._timeout)
            self._calls.put(call)
        try:
            on_start(self.process)
            self._serve_calls(calls)
            loaded = self._load(load, config.load_timeout_seconds)
        except FaultsError:
            self._control_is_free.set()
            raise
        self.inputs, self.outputs = _specs(loaded.inputs), _specs(loaded.outputs)
        self.predicts, self.streams = loaded.predicts, loaded.streams
        self.takes_parameters, self.checks_ready = loaded.takes_parameters, loaded.checks_ready
        self.functions = loaded.functions
        if self.streams or self.checks_ready:
            writer = threading.Thread(target=self._write, name=f"streams-to-{load.name}", daemon=True)
            writer.start()
            threading.Thread(target=self._read, args=(writer,), name=f"streams-of-{load.name}", daemon=True).start()
        else:
            self._control_is_free.set()

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> Answers:
        """See `Runtime.run`. Raises ModelEndedError, and what the class raises: UserCodeError, or an InferenceError."""
        call = self._calls.get()
        try:
            call.send(Run([*parameters], current()), arrays)
            message, answers = call.receive()
        except TimeoutError:
            self.process.abort(
                f"a run took longer than {self._timeout:g} s (runtime.timeout_seconds), and its process was killed"
            )
            raise self._ended_error() from None
        except (OSError, EOFError, MessageError) as error:
            raise self._ended_error(error) from None
        finally:
            self._calls.put(call)
        if isinstance(message, Failure):
            raise error_of(message)
        return answers

    async def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[Answers, None]:
        """See `Streaming.stream`. Raises as `run` does."""
        number, read = next(self._numbers), 0
        bridge = self._streams[number] = StreamBridge(lambda: None)
        if self.process.ended.is_set():
            self._streams.pop(number, None)
            raise self._ended_error()
        self._post(Begin(number, _WINDOW, dict(parameters), current()), arrays)
        late = False
        try:
            while True:
                async with asyncio.timeout(self._timeout):
                    part = await bridge.get()
                if part is None:
                    return
                read += 1
                if read % _AT_ONCE == 0:
                    self._post(More(number, _AT_ONCE))
                yield part[0]
        except TimeoutError:
            late = True
            raise ModelError(
                f"model {self._model} failed: its stream had no part for {self._timeout:g} s (runtime.timeout_seconds)"
            ) from None
        finally:
            if number in self._streams:
                self._post(Cancel(number))
                wait = min(_CANCEL_SECONDS, self._timeout) if late else self._timeout
                asyncio.get_running_loop().call_later(wait, self._check_ended, number)

    def ask_ready(self) -> "Future[str | None]":
        """See `SelfChecking`; a process that has ended is ready as soon as the next one is."""
        number = next(self._numbers)
        asked = self._asked[number] = Future()
        self._post(AskReady(number))
        if self.process.ended.is_set():
            self._end_asked()
        return asked

    def _end_asked(self) -> None:
        with contextlib.suppress(KeyError):
            while True:
                self._asked.popitem()[1].set_result(None)

    def close(self) -> None:
        """End the process."""
        self.process.close()

    def _serve_calls(self, calls: CallServer | None) -> None:
        if calls is None:
            self.process.models.close()
        else:
            calls.connect(self.process.models, self._model)

    def _load(self, load: Load, timeout: float | None) -> Loaded:
        control = self.process.control
        try:
            control.set_timeout(timeout)
            control.send(load)
            message, _ = control.receive()
            control.set_timeout(None)
        except TimeoutError:
            self.process.abort(f"it took longer than {timeout:g} s to load (runtime.load_timeout_seconds)")
            raise FaultsError([f"{load.path}: {self.process.reason}"]) from None
        except (OSError, EOFError, MessageError) as error:
            self._ensure_ended(error)
            if self.process.traceback:
                record = {"model": self._model, "traceback": self.process.traceback}
                log.error("a model's process ended while it was loaded", extra=record)
            raise FaultsError([f"{load.path}: while it was loaded {self.process.reason}"]) from None
        if isinstance(message, Faults):
            self.process.close()
            raise FaultsError(message.faults)
        return message  # type: ignore[no-any-return]

    def _on_process_end(self, process: WorkerProcess) -> None:
        """Close the connections once nobody uses them, and report the end (in the process's thread)."""
        for _ in process.calls:
            call = self._calls.get()
            call.close()
            self._calls.put(call)
        self._control_is_free.wait()
        process.control.close()
        self._on_end(self)

    def _ensure_ended(self, error: Exception | None) -> None:
        """Wait until a process that doesn't answer has ended; abort one that has only closed its connection."""
        if not self.process.ended.wait(_CANCEL_SECONDS):
            self.process.abort(f"its process closed its connection{f' ({error})' if str(error) else ''}", "exited")

    def _ended_error(self, error: Exception | None = None) -> InferenceError:
        self._ensure_ended(error)
        if self.process.how == "closed":
            # No request is to blame for that: it may be answered by what comes next, or elsewhere.
            return ModelRestartingError(f"model {self._model} was unloaded or replaced before it had answered")
        return ModelEndedError(f"model {self._model} failed: {self.process.reason}, with the requests that it had")

    def _post(self, message: Any, arrays: Sequence[Array] = ()) -> None:
        self._outbox.put((message, arrays))

    def _check_ended(self, number: int) -> None:
        """Check that a stream that nobody reads has ended (in the loop)."""
        if number in self._streams and not self.process.ended.is_set():
            reason = "a stream that was cancelled didn't end (runtime.timeout_seconds), and its process was killed"
            threading.Thread(target=partial(self.process.abort, reason), daemon=True).start()

    def _write(self) -> None:
        """Send messages for streams, until the process has ended (in a thread)."""
        while True:
            message, arrays = self._outbox.get()
            if message is None:
                return
            try:
                self.process.control.send(message, arrays)
            except OSError:
                return
            except Exception as error:
                # The message can't be encoded.
                bridge = self._streams.pop(message.stream, None)
                if bridge is not None:
                    bridge.end(error)

    def _read(self, writer: threading.Thread) -> None:
        """Receive chunks and ends of streams, until the process has ended, and with it all streams (in a thread)."""
        try:
            while True:
                self._handle(*self.process.control.receive())
        except (OSError, EOFError, MessageError) as error:
            ended = self._ended_error(error)
        self._outbox.put((None, ()))
        writer.join()
        self._control_is_free.set()
        self._end_asked()
        while self._streams:
            _, bridge = self._streams.popitem()
            bridge.end(ended)

    def _handle(self, message: Any, arrays: Answers) -> None:
        if isinstance(message, StreamChunk):
            bridge = self._streams.get(message.stream)
            if bridge is not None:
                bridge.put(arrays)
        elif isinstance(message, Ready):
            asked = self._asked.pop(message.number, None)
            if asked is not None:
                asked.set_result(message.reason)
        elif isinstance(message, End):
            bridge = self._streams.pop(message.stream, None)
            if bridge is not None:
                bridge.end(None if message.failure is None else error_of(message.failure))


def _specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)
