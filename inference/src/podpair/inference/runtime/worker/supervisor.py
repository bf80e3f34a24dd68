"""A class in worker processes, one after the other: where one ends that shouldn't the next is started, with growing waits.

While there is none the model isn't ready, and requests are refused at once (503): they may be answered elsewhere, or later.
Those that were in the process when it ended fail, for one of them may be why.
"""

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from podpair.inference.core.errors import FaultsError, ModelRestartingError
from podpair.inference.core.restarts import RestartBackoff
from podpair.inference.core.tensors import Array
from podpair.inference.runtime.protocol import Down, Runtime
from podpair.inference.runtime.worker.process import WorkerProcess
from podpair.inference.runtime.worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)

Answers = list[Array]
Start = Callable[[Callable[[WorkerProcess], object], Callable[[WorkerRuntime], object]], WorkerRuntime]


class SupervisedRuntime:
    """A `Runtime`, `Streaming` and `Restarting`. Raises FaultsError where the first process can't load the class.

    start: makes a process, given what is to be called when it was started, and when it has ended.
    """

    platform = "python"
    inline = False

    def __init__(self, model: str, version: int, start: Start, backoff: RestartBackoff | None = None) -> None:
        self._model = model
        self._version = version
        self._start = start
        self._backoff = backoff or RestartBackoff()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._down: Down | None = None
        self._tell: Callable[[Down | None], object] | None = None
        self._prepare: Callable[[Runtime], object] | None = None
        self._current: WorkerRuntime | None = None
        # The process that was started last.
        self._latest: WorkerProcess | None = None
        first = start(self._starts, self._ended)
        self._current = first
        self.instances = first.instances
        self.inputs, self.outputs = first.inputs, first.outputs
        self.predicts, self.streams = first.predicts, first.streams
        self.takes_parameters = first.takes_parameters
        if first.process.gone.is_set():
            self._ended(first)

    def watch(self, tell: Callable[[Down | None], object]) -> None:
        """See `Restarting`."""
        with self._lock:
            self._tell, down = tell, self._down
        if down is not None:
            tell(down)

    def before_up(self, prepare: Callable[[Runtime], object]) -> None:
        """See `Restarting`."""
        self._prepare = prepare

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> Answers:
        """See `Runtime.run`. Raises ModelRestartingError while there is no process, and as `WorkerRuntime.run` does."""
        return self._there().run(arrays, parameters)

    async def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[Answers, None]:
        """See `Streaming.stream`."""
        async with aclosing(self._there().stream(arrays, parameters)) as parts:
            async for part in parts:
                yield part

    def close(self) -> None:
        """End the process, and start no other."""
        self._closed.set()
        with self._lock:
            latest, self._current = self._latest, None
        if latest is not None:
            latest.close()

    @property
    def _which(self) -> dict[str, Any]:
        return {"model": self._model, "version": self._version}

    def _there(self) -> WorkerRuntime:
        current = self._current
        if current is None:
            down = self._down
            why = "it is being unloaded" if down is None else f"{down.reason}; it is being started again"
            raise ModelRestartingError(f"model {self._model} is not ready: {why}")
        return current

    def _starts(self, process: WorkerProcess) -> None:
        """A process is there, and begins to load the class."""
        with self._lock:
            self._latest = process
        if self._closed.is_set():
            process.close()

    def _ended(self, worker: WorkerRuntime) -> None:
        """In the thread of a process that has ended, or of who found it so: go on with the next one."""
        with self._lock:
            # One that never was up is the affair of who started it.
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
        worker = self._start(self._starts, self._ended)
        if self._prepare is not None:
            try:
                self._prepare(worker)
            except FaultsError:
                worker.close()
                raise
            if worker.process.gone.is_set():
                hint = "what takes no zeros leaves it out: warmup: {rows: []}"
                raise FaultsError([f"while it was warmed up {worker.process.reason}; {hint}"])
        return worker

    def _publish(self, worker: WorkerRuntime) -> None:
        with self._lock:
            closed = self._closed.is_set()
            if not closed:
                self._current, self._down = worker, None
                tell = self._tell
        if closed:
            return
        log.info("a model's process is up again", extra={**self._which, "pid": worker.process.pid})
        if tell is not None:
            tell(None)
        if worker.process.gone.is_set():
            self._ended(worker)

    def _set_down(self, down: Down, wait: float, traceback: str) -> None:
        with self._lock:
            self._down, tell = down, self._tell
        told = {**self._which, "reason": down.reason, "in_seconds": wait}
        if traceback:
            told["traceback"] = traceback
        log.error("a model's process has ended, and is started again", extra=told)
        if tell is not None:
            tell(down)
