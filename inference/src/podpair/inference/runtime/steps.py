"""The functions of a workflow's `steps.py`, as a Python model that only streams: each call of a step is a stream.

A function takes its input, and a second argument if it has one: its `StepContext`. Async functions run on the model's event loop,
others in threads. Whoever ends the stream cancels the step: an async function as any task, another one when it next looks.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from podpair.inference.core.errors import InferenceError, InvalidRequestError
from podpair.inference.core.step_context import StepContext
from podpair.inference.core.steps import PendingChunks, context_of, decode_value, encode_chunk
from podpair.inference.runtime.user_code import UserCodeError, describe, place

Function = Callable[..., Any]


class _Step(NamedTuple):
    function: Function
    call: Callable[[Any, StepContext], Any]


class Steps:
    """The steps of a module.

    folder: that of its file. threads: run the functions that aren't async.
    """

    def __init__(self, module: ModuleType, folder: Path, threads: Executor) -> None:
        self._folder = folder
        self._threads = threads
        self._steps: dict[str, _Step] = {}
        # Each function, and why it can't be a step; empty if it can.
        self.functions: dict[str, str] = {}
        for name, value in vars(module).items():
            if callable(value) and not name.startswith("_"):
                call = _call_of(value)
                self.functions[name] = self._unfit(value) if call is None else ""
                if call is not None:
                    self._steps[name] = _Step(value, call)

    async def stream(self, request: str, parameters: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """Run the step that `parameters` names, and yield its chunks as `core.steps` says.

        Raises InvalidRequestError, UserCodeError, and what the step raises of podpair.inference's own.
        """
        step = self._steps.get(str(parameters.get("step")))
        if step is None:
            raise InvalidRequestError(f"steps.py has no function {parameters.get('step')!r} that can be a step")
        value = decode_value(request, "its input")
        outbox = _Outbox()
        context = context_of(parameters, outbox.put)
        run = self._run_async if inspect.iscoroutinefunction(step.function) else self._run_in_thread
        outcome = asyncio.ensure_future(run(step, value, context))
        outcome.add_done_callback(lambda _: outbox.wake())
        try:
            while not outcome.done():
                await outbox.wait()
                for chunk in outbox.take():
                    yield chunk
            for chunk in outbox.take():
                yield chunk
            if outcome.cancelled():
                raise UserCodeError(f"{_name(step.function)} was cancelled, by itself{self._place(step.function)}")
            yield self._encoded(step.function, outcome.result())
        finally:
            if not outcome.done():
                context.cancel()
                outcome.cancel()
                await asyncio.wait([outcome])
            if not outcome.cancelled():
                outcome.exception()  # of a stream that is being ended nobody else looks at it

    async def _run_async(self, step: _Step, value: Any, context: StepContext) -> Any:
        return await self._awaited(step.function, step.call(value, context))

    async def _awaited(self, function: Function, awaitable: Awaitable[Any]) -> Any:
        try:
            return await awaitable
        except (InferenceError, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise self._described(function, error) from error

    async def _run_in_thread(self, step: _Step, value: Any, context: StepContext) -> Any:
        """Run a function in a thread, to its end: a cancelled one isn't left alone before that."""

        def run() -> tuple[Any, BaseException | None]:
            try:
                return step.call(value, context), None
            except BaseException as error:
                return None, error

        begun = self._threads.submit(run)
        ended = asyncio.wrap_future(begun)
        try:
            returned, error = await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not begun.cancel():
                await asyncio.wait([ended])
            raise
        if error is not None:
            raise error if isinstance(error, InferenceError) else self._described(step.function, error) from error
        # A decorator may hide that a function is async.
        return await self._awaited(step.function, returned) if inspect.isawaitable(returned) else returned

    def _described(self, function: Function, error: BaseException) -> UserCodeError:
        return UserCodeError(describe(error, self._folder, function if _has_code(function) else None))

    def _encoded(self, function: Function, output: Any) -> str:
        try:
            return encode_chunk("output", output)
        except (TypeError, ValueError) as error:
            raise UserCodeError(f"{_name(function)} returned what is no JSON: {error}{self._place(function)}") from None

    def _unfit(self, function: Any) -> str:
        """Return why something that can be called is no step."""
        if inspect.isclass(function):
            return "is a class; a step is a function"
        where = self._place(function)
        if _yields(function):
            return f"yields{where}; a step returns its output, and tells its progress by `context.progress`"
        return f"takes {inspect.signature(function)}{where}; a step takes its input, and a context if it likes"

    def _place(self, function: Function) -> str:
        return f" ({place(function, self._folder)})" if _has_code(function) else ""


class _Outbox:
    """The chunks of a step, put from any thread, taken in the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._chunks = PendingChunks()
        self._news = asyncio.Event()

    def put(self, kind: str, value: Any) -> None:
        """Encode and add a chunk. Raises TypeError or ValueError if the value isn't JSON."""
        text = encode_chunk(kind, value)
        with self._lock:
            self._chunks.put(kind, text)
        self._loop.call_soon_threadsafe(self._news.set)

    def take(self) -> list[str]:
        with self._lock:
            return self._chunks.take()

    def wake(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is something to take, or the step has ended."""
        await self._news.wait()
        self._news.clear()


def _call_of(function: Any) -> Callable[[Any, StepContext], Any] | None:
    """Return how a function is called as a step; None if it can't be."""
    if inspect.isclass(function) or _yields(function):
        return None
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some builtins nothing is known
        return lambda value, _: function(value)
    if "context" in list(signature.parameters)[1:] and _binds(signature, None, context=None):
        return lambda value, context: function(value, context=context)
    if _binds(signature, None):
        return lambda value, _: function(value)
    if _binds(signature, None, None):
        return lambda value, context: function(value, context)
    return None


def _binds(signature: inspect.Signature, *arguments: None, **named: None) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True


def _yields(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _has_code(function: Any) -> bool:
    return hasattr(inspect.unwrap(function), "__code__")


def _name(function: Function) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
