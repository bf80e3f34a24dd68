"""What the container needs of a runtime of models: ONNX Runtime, a Python class, or another."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from podpair.inference.core.model_call import ModelAnswer, ModelCall
from podpair.inference.core.tensors import Array, TensorSpec


class Runtime(Protocol):
    """One loaded model version; `run` is called from several threads at once."""

    # As V2's metadata calls it, `onnxruntime_onnx`.
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Whether `run` answers at all: a class may only stream.
    predicts: bool
    # Whether everything is computed by the thread that calls `run`: a short run may then be made in the event loop, which
    # is blocked by it.
    inline: bool
    # How many runs may go on at the same time.
    instances: int
    # Whether `run` has a use for the requests' parameters.
    takes_parameters: bool
    # Whether it may call other models: it is run in the context of the requests (`core.request_context`).
    calls_models: bool

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> list[Array]:
        """Run one batch: an array for each of `inputs`, answered by an array for each of `outputs`.

        parameters: those of each row's request, if `takes_parameters`. Raises InvalidRequestError if the values are
        at fault, anything else if the model is.
        """
        ...

    def close(self) -> None:
        """Release the model's resources; nothing runs any more."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A runtime that can also answer one request in chunks."""

    # Whether this model can.
    streams: bool

    def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[list[Array], None]:
        """Yield the answer to a request of one row in chunks, each an array of one row for each of `outputs`.

        Chunks that aren't read aren't computed. `aclose` the generator.
        """
        ...


@runtime_checkable
class Declaring(Protocol):
    """A runtime of a workflow, which a gateway runs by its declaration."""

    # As JSON values, without what it has by default.
    declaration: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Down:
    """Why a model can't be run for the time being."""

    # The message for clients.
    reason: str
    # The metric's label `reason`: exited, signal, timeout, load.
    how: str


@runtime_checkable
class Restarting(Protocol):
    """A runtime that may be down for a while, and restarts by itself."""

    def watch(self, notify: Callable[[Down | None], object]) -> None:
        """Have `notify` called, in any thread, when it goes down, when a restart fails, and (with None) when it is up again."""
        ...

    def on_restart(self, prepare: Callable[[Runtime], object]) -> None:
        """Have `prepare` called with the restarted runtime before it is used; it raises FaultsError if that can't be used."""
        ...


@runtime_checkable
class SelfChecking(Protocol):
    """A runtime whose model may say that it isn't ready, while something that it needs is away."""

    # Whether this model says so.
    checks_ready: bool

    def ask_ready(self) -> "Future[str | None]":
        """Ask it, in any thread. The future has None if it is ready, else why it isn't."""
        ...


class ModelCaller(Protocol):
    """What calls a model of the server for another one."""

    def begin(
        self, call: ModelCall, caller: str, finish: Callable[[ModelAnswer | Exception], object]
    ) -> Callable[[], object]:
        """Begin a call of the model `caller`, on the serving loop. Return what withdraws it.

        `finish` gets the answer, or an InferenceError, once, perhaps before this returns; after it was withdrawn perhaps never.
        """
        ...
