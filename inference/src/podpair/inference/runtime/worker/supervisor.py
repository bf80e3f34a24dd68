"""Runs a class in a worker process, and starts the next one if it ends unexpectedly, with growing delays.

While there is none the model isn't ready, and requests are refused at once (503): they may be answered elsewhere, or later.
Those that were in the process when it ended fail, since one of them may be the cause.
"""

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import ModelRestartingError
from podpair.inference.core.restarts import RestartBackoff
from podpair.inference.core.tensors import Array
from podpair.inference.runtime.protocol import Down, Runtime
from podpair.inference.runtime.worker.process import WorkerProcess
from podpair.inference.runtime.worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)

Answers = list[Array]
Start = Callable[[Callable[[WorkerProcess], object], Callable[[WorkerRuntime], object]], WorkerRuntime]


class SupervisedRuntime:
    """A `Runtime`, `Streaming`, `SelfChecking` and `Restarting`. Raises FaultsError if the first process can't load the class.

    start: creates a process, given the callbacks for when it was started, and when it has ended.
    """

    platform = "python"
    inline = False
    calls_models = True

    def __init__(self, model: str, version: int, start: Start, backoff: RestartBackoff | None = None) -> None:
        self._model = model
        self._version = version
        self._start = start
        self._backoff = backoff or RestartBackoff()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._down: Down | None = None
        self._notify: Callable[[Down | None], object] | None = None
        self._prepare: Callable[[Runtime], object] | None = None
        self._current: WorkerRuntime | None = None
        # The process that was started last.
        self._latest: WorkerProcess | None = None
        first = start(self._on_start, self._on_end)
        self._current = first
        self.instances = first.instances
        self.inputs, self.outputs = first.inputs, first.outputs
        self.predicts, self.streams = first.predicts, first.streams
        self.takes_parameters, self.checks_ready = first.takes_parameters, first.checks_ready
        # Of a steps.py: see `PythonRuntime`.
        self.functions = first.functions
        if first.process.ended.is_set():
            self._on_end(first)

    def watch(self, notify: Callable[[Down | None], object]) -> None:
        """See `Restarting`."""
        with self._lock:
            self._notify, down = notify, self._down
        if down is not None:
            notify(down)

    def on_restart(self, prepare: Callable[[Runtime], object]) -> None:
        """See `Restarting`."""
        self._prepare = prepare

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> Answers:
        """See `Runtime.run`. Raises ModelRestartingError while there is no process, and as `WorkerRuntime.run` does."""
        return self._worker().run(arrays, parameters)

    async def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[Answers, None]:
        """See `Streaming.stream`."""
        async with aclosing(self._worker().stream(arrays, parameters)) as parts:
            async for part in parts:
                yield part

    def ask_ready(self) -> "Future[str | None]":
        """See `SelfChecking`; what is down says so otherwise."""
        current = self._current
        if current is not None:
            return current.ask_ready()
        nobody: Future[str | None] = Future()
        nobody.set_result(None)
        return nobody

    def close(self) -> None:
        """End the process, and start no other."""
        self._closed.set()
        with self._lock:
            latest, self._current = self._latest, None
        if latest is not None:
            latest.close()

    @property
    def _log_fields(self) -> dict[str, Any]:
        return {"model": self._model, "version": self._version}

    def _worker(self) -> WorkerRuntime:
        current = self._current
        if current is None:
            down = self._down
            why = "it is being unloaded" if down is None else f"{down.reason}; it is being restarted"
            raise ModelRestartingError(f"model {self._model} is not ready: {why}")
        return current

    def _on_start(self, process: WorkerProcess) -> None:
        """Note a process that has started and begins to load the class."""
        with self._lock:
            self._latest = process
        if self._closed.is_set():
            process.close()

    def _on_end(self, worker: WorkerRuntime) -> None:
        """Replace a worker that has ended (in its process's thread, or in that of the caller that noticed)."""
        with self._lock:
            # One that was never up is handled by its starter.
            if self._closed.is_set() or self._current is not worker:
                return
            self._current = None
        process = worker.process
        up, down = process.up_seconds, Down(process.reason, process.how)
        traceback = process.traceback
        while not self._closed.is_set():
            wait = self._backoff.next_wait(up)
            self._set_down(down, wait, traceback)
            if self._closed.wait(wait):
                return
            try:
                worker = self._begin()
            except FaultsError as error:
                up, down, traceback = 0.0, Down("; ".join(error.faults), "load"), ""
            else:
                self._publish(worker)
                return

    def _begin(self) -> WorkerRuntime:
        worker = self._start(self._on_start, self._on_end)
        if self._prepare is not None:
            try:
                self._prepare(worker)
            except FaultsError:
                worker.close()
                raise
            if worker.process.ended.is_set():
                hint = "what takes no zeros leaves it out: warmup: {rows: []}"
                raise FaultsError([f"while it was warmed up {worker.process.reason}; {hint}"])
        return worker

    def _publish(self, worker: WorkerRuntime) -> None:
        with self._lock:
            closed = self._closed.is_set()
            if not closed:
                self._current, self._down = worker, None
                notify = self._notify
        if closed:
            return
        log.info("a model's process is up again", extra={**self._log_fields, "pid": worker.process.pid})
        if notify is not None:
            notify(None)
        if worker.process.ended.is_set():
            self._on_end(worker)

    def _set_down(self, down: Down, wait: float, traceback: str) -> None:
        with self._lock:
            self._down, notify = down, self._notify
        record = {**self._log_fields, "reason": down.reason, "in_seconds": wait}
        if traceback:
            record["traceback"] = traceback
        log.error("a model's process has ended, and is restarted", extra=record)
        if notify is not None:
            notify(down)
