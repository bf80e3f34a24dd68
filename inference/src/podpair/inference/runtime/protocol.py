"""What the rest of the container needs of something that runs a model: ONNX Runtime, a Python class, or whatever joins."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from podpair.inference.core.tensors import Array, TensorSpec


class Runtime(Protocol):
    """One loaded model version; `run` is called from several threads at once."""

    # As V2's metadata calls it, `onnxruntime_onnx`.
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Whether `run` answers at all: a class may only stream.
    predicts: bool
    # Whether all is computed by the thread that calls `run`: a run that is short may then be made in the event loop, which
    # does nothing else meanwhile.
    inline: bool
    # How many runs may go on at the same time.
    instances: int
    # Whether `run` has a use for the requests' parameters.
    takes_parameters: bool

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> list[Array]:
        """One batch: an array for each of `inputs`, answered by an array for each of `outputs`.

        parameters: those of each row's request, where `takes_parameters`. Raises InvalidRequestError if the values are
        at fault, anything else if the model is.
        """
        ...

    def close(self) -> None:
        """Let go of what the model holds; nothing runs any more."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A runtime that can also answer one request in parts."""

    # Whether this model does.
    streams: bool

    def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[list[Array], None]:
        """The answer to a request of one row, part by part, each an array of one row for each of `outputs`.

        What the iterator hasn't been asked for isn't computed. `aclose` it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Down:
    """A model that can't be run for the time being."""

    # What clients are told.
    reason: str
    # In a word, for the metric: exited, signal, timeout, load.
    how: str


@runtime_checkable
class Restarting(Protocol):
    """A runtime that may be down for a while, and comes back by itself."""

    def watch(self, tell: Callable[[Down | None], object]) -> None:
        """Have `tell` called, in any thread, whenever it goes down, also at each start that fails, and (None) is up again."""
        ...

    def before_up(self, prepare: Callable[[Runtime], object]) -> None:
        """Have `prepare` run what was started again before anybody else does; FaultsError: it can't be used."""
        ...
