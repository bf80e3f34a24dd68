"""Python classes: `load(self)`, `ready(self)`, `predict(self, batch)`, `stream(self, request)`, sync or async, as `Runtime`.

What the class gets and may answer is in `core.rows`. Sync methods run in threads, async ones on an event loop that the
model has to itself; nothing of the user's runs on the serving loop. A failure names the line in the user's file.
"""

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import InferenceError, InvalidRequestError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.request_context import answering, current
from podpair.inference.core.rows import AnswersError, Rows
from podpair.inference.core.tensors import Array
from podpair.inference.runtime.ready_method import ReadyMethod
from podpair.inference.runtime.steps import Steps
from podpair.inference.runtime.stream_bridge import WINDOW, LoopThread, StreamBridge
from podpair.inference.runtime.user_code import (
    UserCodeError,
    describe,
    fault,
    find_class,
    import_file,
    own_modules,
    place,
)

Answers = list[Array]

_loads = count()


@dataclass(slots=True)
class OpenStream:
    """A stream that has begun: the bridge with its chunks, and how to stop it."""

    bridge: StreamBridge[Answers]
    # Stops it: it isn't read any more.
    stop: Callable[[], object]
    # Done once nothing of it runs any more.
    ended: "Future[None]" = field(default_factory=Future)


class PythonRuntime:
    """A `Runtime`, and `Streaming`, for a class in this process. FaultsError if it can't be imported, made or loaded.

    path: the file of the class. reference: `module:Class` if it isn't in a repository. name: for its threads.
    alone: this process is the class's own. Its file is a module of the same name then, so that processes that it starts
    find what to run, and its neighbours in the folder can be imported at any time. steps: the file is a workflow's steps.py.
    """

    platform = "python"
    inline = False
    calls_models = True

    def __init__(
        self, path: Path, config: ModelConfig, name: str, reference: str | None = None, alone: bool = False,
        steps: bool = False,
    ) -> None:  # fmt: skip
        self._folder = path.parent
        # As many chunks again are on their way to the server.
        self._window = WINDOW // 2 if alone else WINDOW
        self.instances = config.runtime.instances or 1
        self._rows = Rows(config)
        self.inputs, self.outputs = self._rows.inputs, self._rows.outputs
        if config.postprocess:
            raise FaultsError([f"{path}: postprocess is for ONNX models; a class does it in predict"])
        self._loop = LoopThread(f"loop-{name}")
        # No dots: they would make it a module of a package.
        self._module = path.stem if alone else f"podpair_model_{name}_{next(_loads)}".replace(".", "_")
        self._threads = ThreadPoolExecutor(config.runtime.max_streams, thread_name_prefix=f"stream-{name}")
        with contextlib.nullcontext() if alone or reference else own_modules(self._folder, self._module):
            if steps:
                make: Callable[[], Any] = partial(Steps, import_file(path, self._module), self._folder, self._threads)
            else:
                make = find_class(path, reference, config.class_, self._module)
            try:
                model = make()
                self._predict = _method(model, "predict")
                self._stream = _method(model, "stream")
                if inspect.iscoroutinefunction(self._stream):
                    raise TypeError(f"stream ({place(self._stream, self._folder)}) is async but never yields")
                load = _method(model, "load")
                if load is not None:
                    # The modules of one model at a time are in reach: who waited here for another would keep that from loading.
                    with answering(msgspec.structs.replace(current(), loading=current().loading and alone)):
                        self._wait(load())
            except BaseException as error:
                self._loop.close()
                raise fault(error, path) from error
        self.predicts, self.streams = self._predict is not None, self._stream is not None
        self.takes_parameters = _takes_parameters(self._predict)
        ready = _method(model, "ready")
        self._ready = None if ready is None else ReadyMethod(ready, self._folder, self._loop, name)
        self.checks_ready = self._ready is not None
        # Of a steps.py: its functions, each with why it can't be a step, empty if it can.
        self.functions: Mapping[str, str] = model.functions if isinstance(model, Steps) else {}

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> Answers:
        """See `Runtime.run`. Raises UserCodeError."""
        if self._predict is None:
            raise InvalidRequestError("the model only streams: it has no predict; ask for generate_stream")
        if self._rows.batchable and not len(arrays[0]):
            return self._rows.none()
        batch = self._rows.batch(arrays)
        rows = len(batch)
        extra = {"parameters": list(parameters) or [{}] * rows} if self.takes_parameters else {}
        with self._pointing(self._predict):
            return self._rows.arrays(self._wait(self._predict(batch, **extra)), rows)

    async def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[Answers, None]:
        """See `Streaming.stream`. Raises UserCodeError."""
        opened = self.open_stream(arrays, parameters)
        try:
            while (part := await opened.bridge.get()) is not None:
                yield part[0]
        finally:
            opened.stop()

    def open_stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> OpenStream:
        """Begin a stream, whose parts the loop that this is called on reads. Raises InvalidRequestError."""
        if self._stream is None:
            raise InvalidRequestError("the model has no stream")
        request = self._rows.batch(arrays)[0]
        arguments = {"parameters": parameters} if _takes_parameters(self._stream) else {}
        begin = self._stream_async if inspect.isasyncgenfunction(self._stream) else self._stream_sync
        return begin(request, arguments)

    def ask_ready(self) -> "Future[str | None]":
        """See `SelfChecking`."""
        if self._ready is None:
            raise TypeError("the class has no method ready")
        return self._ready.ask()

    def close(self) -> None:
        """End the model's threads."""
        if self._ready is not None:
            self._ready.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._loop.close()
        sys.modules.pop(self._module, None)

    def _wait(self, value: Any) -> Any:
        """Return what a method returned, awaited on the model's loop if it is a coroutine."""
        return self._loop.submit(value).result() if inspect.iscoroutine(value) else value

    def _stream_async(self, request: Any, arguments: dict[str, Any]) -> OpenStream:
        slots = asyncio.Semaphore(self._window)
        loop = self._loop.loop
        bridge: StreamBridge[Answers] = StreamBridge(lambda: loop.call_soon_threadsafe(slots.release))
        tasks: list[asyncio.Task[None]] = []

        def stop() -> None:
            # The loop may have ended with the model.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: tasks[0].cancel())

        opened = OpenStream(bridge, stop)

        async def produce() -> None:
            try:
                with self._pointing(self._stream):
                    async with aclosing(self._stream(request, **arguments)) as parts:  # type: ignore[misc]
                        async for part in parts:
                            await slots.acquire()
                            bridge.put(self._rows.arrays([part], 1))
            except Exception as error:
                bridge.end(error)
            else:
                bridge.end()

        def begin() -> None:
            tasks.append(loop.create_task(produce()))
            tasks[0].add_done_callback(lambda _: opened.ended.set_result(None))

        loop.call_soon_threadsafe(begin)
        return opened

    def _stream_sync(self, request: Any, arguments: dict[str, Any]) -> OpenStream:
        slots = threading.Semaphore(self._window)
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            slots.release()

        opened = OpenStream(StreamBridge(slots.release), stop)
        bridge = opened.bridge

        def produce() -> None:
            try:
                with self._pointing(self._stream), _iterating(self._stream(request, **arguments)) as parts:  # type: ignore[misc]
                    for part in parts:
                        slots.acquire()
                        if stopped.is_set():
                            return
                        bridge.put(self._rows.arrays([part], 1))
            except Exception as error:
                bridge.end(error)
            else:
                bridge.end()
            finally:
                opened.ended.set_result(None)

        self._threads.submit(copy_context().run, produce)
        return opened

    @contextmanager
    def _pointing(self, method: Any) -> Iterator[None]:
        """Turn exceptions into UserCodeError, which names the line; errors that the user means for the client pass."""
        try:
            yield
        except (InferenceError, UserCodeError, asyncio.CancelledError):
            raise
        except AnswersError as error:
            raise UserCodeError(f"{method.__name__} {error} ({place(method, self._folder)})") from None
        except BaseException as error:
            raise UserCodeError(describe(error, self._folder, method)) from error


def _method(model: object, name: str) -> Callable[..., Any] | None:
    method = getattr(model, name, None)
    return method if callable(method) else None


def _takes_parameters(method: Callable[..., Any] | None) -> bool:
    return method is not None and "parameters" in inspect.signature(method).parameters


@contextmanager
def _iterating(parts: Any) -> Iterator[Iterator[Any]]:
    """Iterate, and close a generator at the end, so that the user's `finally` runs; a text isn't a sequence of chunks."""
    if isinstance(parts, str | bytes) or not hasattr(parts, "__iter__"):
        raise AnswersError(f"returned a {type(parts).__name__}; it yields parts")
    iterator = iter(parts)
    with closing(iterator) if hasattr(iterator, "close") else contextlib.nullcontext():
        yield iterator
