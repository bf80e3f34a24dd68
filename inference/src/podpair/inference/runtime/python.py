"""Python classes: `load(self)`, `predict(self, batch)`, and `stream(self, request)`, each sync or async, as `Runtime`.

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
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from podpair.inference.core.errors import FaultsError, InferenceError, InvalidRequestError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.rows import AnswersError, Rows
from podpair.inference.core.tensors import Array
from podpair.inference.runtime.feeding import WINDOW, Feed, LoopThread
from podpair.inference.runtime.user_code import UserCodeError, describe, fault, find_class, own_modules, place

Answers = list[Array]

_loads = count()


@dataclass(slots=True)
class OpenStream:
    """A stream that has begun: where its parts come, and how it is ended."""

    feed: Feed[Answers]
    # Nobody reads it any more.
    stop: Callable[[], object]
    # Done once nothing of it runs any more.
    ended: "Future[None]" = field(default_factory=Future)


class PythonRuntime:
    """A `Runtime`, and `Streaming`, for a class in this process. FaultsError if it can't be imported, made or loaded.

    path: the file of the class. reference: `module:Class` where it isn't in a repository. name: for its threads.
    alone: this process is the class's own. Its file is a module of the same name then, so that processes that it starts
    find what they are to run, and what lies beside it can be imported at any time.
    """

    platform = "python"
    inline = False

    def __init__(
        self, path: Path, config: ModelConfig, name: str, reference: str | None = None, alone: bool = False
    ) -> None:
        self._folder = path.parent
        # As many parts again are on their way to the server.
        self._window = WINDOW // 2 if alone else WINDOW
        self.instances = config.runtime.instances or 1
        self._rows = Rows(config)
        self.inputs, self.outputs = self._rows.inputs, self._rows.outputs
        if config.postprocess:
            raise FaultsError([f"{path}: postprocess is for ONNX models; a class does it in predict"])
        self._loop = LoopThread(f"loop-{name}")
        # No dots: they would make it a module of a package.
        self._module = path.stem if alone else f"podpair_model_{name}_{next(_loads)}".replace(".", "_")
        with contextlib.nullcontext() if alone or reference else own_modules(self._folder, self._module):
            found = find_class(path, reference, config.class_, self._module)
            try:
                model = found()
                self._predict = _method(model, "predict")
                self._stream = _method(model, "stream")
                if inspect.iscoroutinefunction(self._stream):
                    raise TypeError(f"stream ({place(self._stream, self._folder)}) is async but never yields")
                load = _method(model, "load")
                if load is not None:
                    self._wait(load())
            except BaseException as error:
                self._loop.close()
                raise fault(error, path) from error
        self.predicts, self.streams = self._predict is not None, self._stream is not None
        self.takes_parameters = _takes_parameters(self._predict)
        self._threads = ThreadPoolExecutor(config.runtime.max_streams, thread_name_prefix=f"stream-{name}")

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
            while (part := await opened.feed.get()) is not None:
                yield part[0]
        finally:
            opened.stop()

    def open_stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> OpenStream:
        """Begin a stream, whose parts the loop that this is called on reads. Raises InvalidRequestError."""
        if self._stream is None:
            raise InvalidRequestError("the model has no stream")
        request = self._rows.batch(arrays)[0]
        arguments = {"parameters": parameters} if _takes_parameters(self._stream) else {}
        begin = self._feed_async if inspect.isasyncgenfunction(self._stream) else self._feed_sync
        return begin(request, arguments)

    def close(self) -> None:
        """End the model's threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._loop.close()
        sys.modules.pop(self._module, None)

    def _wait(self, value: Any) -> Any:
        """What a method returned, awaited on the model's loop where it is a coroutine."""
        return self._loop.submit(value).result() if inspect.iscoroutine(value) else value

    def _feed_async(self, request: Any, arguments: dict[str, Any]) -> OpenStream:
        slots = asyncio.Semaphore(self._window)
        loop = self._loop.loop
        feed: Feed[Answers] = Feed(lambda: loop.call_soon_threadsafe(slots.release))
        tasks: list[asyncio.Task[None]] = []

        def stop() -> None:
            # The loop may be gone with the model.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: tasks[0].cancel())

        opened = OpenStream(feed, stop)

        async def produce() -> None:
            try:
                with self._pointing(self._stream):
                    async with aclosing(self._stream(request, **arguments)) as parts:  # type: ignore[misc]
                        async for part in parts:
                            await slots.acquire()
                            feed.put(self._rows.arrays([part], 1))
            except Exception as error:
                feed.end(error)
            else:
                feed.end()

        def begin() -> None:
            tasks.append(loop.create_task(produce()))
            tasks[0].add_done_callback(lambda _: opened.ended.set_result(None))

        loop.call_soon_threadsafe(begin)
        return opened

    def _feed_sync(self, request: Any, arguments: dict[str, Any]) -> OpenStream:
        slots = threading.Semaphore(self._window)
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            slots.release()

        opened = OpenStream(Feed(slots.release), stop)
        feed = opened.feed

        def produce() -> None:
            try:
                with self._pointing(self._stream), _iterating(self._stream(request, **arguments)) as parts:  # type: ignore[misc]
                    for part in parts:
                        slots.acquire()
                        if stopped.is_set():
                            return
                        feed.put(self._rows.arrays([part], 1))
            except Exception as error:
                feed.end(error)
            else:
                feed.end()
            finally:
                opened.ended.set_result(None)

        self._threads.submit(produce)
        return opened

    @contextmanager
    def _pointing(self, method: Any) -> Iterator[None]:
        """Failures in here become UserCodeError, which names the line; those that the user means for the client pass."""
        try:
            yield
        except (InferenceError, asyncio.CancelledError):
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
    """A generator is closed at the end, so that the user's `finally` runs; a text isn't a sequence of parts."""
    if isinstance(parts, str | bytes) or not hasattr(parts, "__iter__"):
        raise AnswersError(f"returned a {type(parts).__name__}; it yields parts")
    iterator = iter(parts)
    with closing(iterator) if hasattr(iterator, "close") else contextlib.nullcontext():
        yield iterator
