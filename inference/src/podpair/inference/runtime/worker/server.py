"""Serves a class in a worker process: its runs and its streams, for the server at the other end.

The class is loaded, and its first runner is, in the main thread, as in a script of its own: libraries can set signal
handlers. Further runners (`runtime.instances`) are threads; streams have an event loop, and the connection that they come
over a thread that only reads: it notices that the server is gone whatever the model does, unless that holds the GIL.
"""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.request_context import RequestContext, answering
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.core.worker_messages import (
    Answer,
    AskReady,
    Begin,
    Cancel,
    Chunk,
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
from podpair.inference.runtime.process_exit import exit_after
from podpair.inference.runtime.python import PythonRuntime
from podpair.inference.runtime.stream_bridge import LoopThread
from podpair.inference.runtime.worker.channel import Channel
from podpair.inference.runtime.worker.failures import failure_of

# How long the model may take to end, in seconds.
_END_SECONDS = 2.0


def serve(control: Channel, calls: Sequence[Channel]) -> None:
    """Load what the server asks for, and serve it until the server has gone."""
    load, _ = control.receive()
    streams = _Streams(control)
    threading.Thread(target=_listen, args=(control, streams), name="control", daemon=True).start()
    runtime = _load(load, control)
    if runtime is None:
        return
    streams.runtime = runtime
    control.send(
        Loaded(
            tuple(map(_as_tensor, runtime.inputs)),
            tuple(map(_as_tensor, runtime.outputs)),
            runtime.predicts,
            runtime.streams,
            runtime.takes_parameters,
            runtime.checks_ready,
            runtime.functions,
        )
    )
    for number, call in enumerate(calls[1:], 1):
        threading.Thread(target=_answer, args=(call, runtime), name=f"run-{number}", daemon=True).start()
    _answer(calls[0], runtime)
    runtime.close()
    streams.close()


def _load(load: Load, control: Channel) -> PythonRuntime | None:
    try:
        config = ModelConfig.model_validate_json(load.config)
        if config.runtime.cpus and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, config.runtime.cpus)
        path = Path(load.path)
        if load.reference is None:
            sys.path.insert(0, str(path.parent))
            # Bytecode's age is compared in seconds: a reload must not use code that was there a moment ago.
            sys.dont_write_bytecode = True
        with answering(RequestContext(path=(load.model,), loading=True)):
            return PythonRuntime(path, config, load.name, load.reference, alone=True, steps=load.steps)
    except FaultsError as error:
        control.send(Faults(error.faults))
        return None


def _as_tensor(spec: TensorSpec) -> Tensor:
    return Tensor(spec.datatype, spec.shape, spec.name)


def _answer(call: Channel, runtime: PythonRuntime) -> None:
    """Answer one run after the other, until the server has gone (in a thread)."""
    while True:
        try:
            run, arrays = call.receive()
        except (EOFError, OSError, MessageError):
            return
        message, outputs = _run(runtime, run, arrays)
        try:
            call.send(message, outputs)
        except OSError:
            return


def _run(runtime: PythonRuntime, run: Run, arrays: Sequence[Array]) -> tuple[Answer | Failure, Sequence[Array]]:
    try:
        with answering(run.context):
            return Answer(), runtime.run(arrays, run.parameters)
    except BaseException as error:
        return failure_of(error), ()


def _listen(control: Channel, streams: "_Streams") -> None:
    """Receive messages for streams, until the server has gone; then this process ends, whatever it does (in a thread)."""
    with contextlib.suppress(EOFError, OSError, MessageError):
        while True:
            message, arrays = control.receive()
            streams.dispatch(message, arrays)
    exit_after(_END_SECONDS)


class _Streams:
    """The open streams, and what else comes over their connection; all but `dispatch` and `close` runs in their event loop."""

    def __init__(self, control: Channel) -> None:
        self.runtime: PythonRuntime | None = None
        self._control = control
        self._loop = LoopThread("streams")
        self._open: dict[int, tuple[asyncio.Task[None], asyncio.Semaphore]] = {}

    def dispatch(self, message: Any, arrays: list[Array]) -> None:
        """Dispatch a message of the server."""
        post = self._loop.loop.call_soon_threadsafe
        if isinstance(message, Begin):
            post(self._begin, message, arrays)
        elif isinstance(message, More):
            post(self._more, message)
        elif isinstance(message, Cancel):
            post(self._cancel, message)
        elif isinstance(message, AskReady):
            post(self._ask_ready, message)

    def close(self) -> None:
        """End them all."""
        self._loop.close()

    def _begin(self, begin: Begin, arrays: list[Array]) -> None:
        slots = asyncio.Semaphore(begin.chunks)
        # The server begins no stream before the class is loaded.
        runtime = cast("PythonRuntime", self.runtime)
        streaming = self._stream(runtime, begin, arrays, slots)
        task = asyncio.get_running_loop().create_task(streaming)
        self._open[begin.stream] = task, slots

    def _more(self, more: More) -> None:
        for slots in [self._open[more.stream][1]] if more.stream in self._open else []:
            for _count in range(more.chunks):
                slots.release()

    def _cancel(self, cancel: Cancel) -> None:
        if cancel.stream in self._open:
            self._open[cancel.stream][0].cancel()

    def _ask_ready(self, message: AskReady) -> None:
        runtime = cast("PythonRuntime", self.runtime)
        runtime.ask_ready().add_done_callback(lambda asked: self._answer_ready(Ready(message.number, asked.result())))

    def _answer_ready(self, ready: Ready) -> None:
        """Send an answer (in any thread)."""
        with contextlib.suppress(RuntimeError):
            self._loop.loop.call_soon_threadsafe(self._send, ready)

    async def _stream(
        self,
        runtime: PythonRuntime,
        begin: Begin,
        arrays: Sequence[Array],
        slots: asyncio.Semaphore,
    ) -> None:
        number = begin.stream
        failure, opened = None, None
        try:
            with answering(begin.context):
                opened = runtime.open_stream(arrays, begin.parameters)
            while (part := await opened.bridge.get()) is not None:
                await slots.acquire()
                self._send(Chunk(number), part[0])
        except asyncio.CancelledError:
            pass
        except Exception as error:
            failure = failure_of(error)
        finally:
            self._open.pop(number, None)
            if opened is None:
                self._send(End(number, failure))
            else:
                opened.stop()
                # Sent once nothing of it runs any more: the server kills a process whose streams don't end.
                opened.ended.add_done_callback(lambda _: self._end(End(number, failure)))

    def _end(self, end: End) -> None:
        """Send the end of a stream after all its chunks (in any thread)."""
        with contextlib.suppress(RuntimeError):
            self._loop.loop.call_soon_threadsafe(self._send, end)

    def _send(self, message: Chunk | End | Ready, arrays: Sequence[Array] = ()) -> None:
        # The server may be gone.
        with contextlib.suppress(OSError):
            self._control.send(message, arrays)
