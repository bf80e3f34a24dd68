"""One batch in the runtime, in whatever thread: put together, run, post-processed, and taken apart again.

A batch that fails is halved until what fails is alone: one bad request costs its batch a few runs more, and nobody else their
answer.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from podpair.inference.core.errors import InferenceError, ModelEndedError, ModelRestartingError
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.core.v2 import check_results
from podpair.inference.runtime.failing import explain
from podpair.inference.runtime.protocol import Runtime

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Part:
    """A request as its batch sees it."""

    arrays: Sequence[Array]
    parameters: Mapping[str, Any]
    rows: int


@dataclass(slots=True)
class Outcome:
    """What became of a batch."""

    # The answer or the error of each part.
    results: "Sequence[list[Array] | InferenceError]"
    # When it was begun, on `time.monotonic()`.
    began: float
    # Seconds by the runtime's clock: of a run that succeeded at once, else None.
    cost: float | None
    # Seconds that passed in the model and behind it.
    runtime: float
    postprocess: float


class Runner:
    """Runs batches of one model version; any number of threads may be in `run`.

    clock: what runs are timed with, see `runtime.loading.run_clock`.
    """

    def __init__(self, name: str, runtime: Runtime, signature: Signature, clock: Callable[[], float]) -> None:
        self._name = name
        self._runtime = runtime
        self._signature = signature
        self._clock = clock

    def run(self, parts: Sequence[Part]) -> Outcome:
        """The answers to one batch; never raises."""
        started, begun = time.monotonic(), self._clock()
        try:
            inputs, parameters = self._gather(parts)
            outputs = self._runtime.run(inputs, parameters)
            computed = time.monotonic()
            results = self._scatter(parts, self._signature.postprocess(outputs))
        except Exception as error:
            return Outcome(self._without(parts, error), started, None, time.monotonic() - started, 0.0)
        return Outcome(results, started, self._clock() - begun, computed - started, time.monotonic() - computed)

    def _without(self, parts: Sequence[Part], error: Exception) -> list[list[Array] | InferenceError]:
        """The answers to a batch that has failed, of its halves; where the model itself is gone there are none."""
        if len(parts) == 1 or isinstance(error, ModelEndedError | ModelRestartingError):
            return [explain(self._name, error)] * len(parts)
        log.warning("a batch failed, its halves run", extra={"model": self._name, "requests": len(parts)})
        middle = len(parts) // 2
        return [result for half in (parts[:middle], parts[middle:]) for result in self.run(half).results]

    def _gather(self, parts: Sequence[Part]) -> tuple[Sequence[Array], list[Mapping[str, Any]]]:
        """One array for each input; that of the request itself where it is alone."""
        parameters: list[Mapping[str, Any]] = []
        if self._runtime.takes_parameters:
            parameters = [part.parameters for part in parts for _ in range(part.rows)]
        if len(parts) == 1:
            return parts[0].arrays, parameters
        columns = zip(*[part.arrays for part in parts], strict=True)
        return [np.concatenate(column) for column in columns], parameters

    def _scatter(self, parts: Sequence[Part], outputs: list[Array]) -> list[list[Array]]:
        """The rows of each part, as views. Raises ModelError where they aren't as many as they should be."""
        rows = [part.rows for part in parts]
        check_results(self._signature.outputs, outputs, sum(rows) if self._signature.batchable else None)
        if len(parts) == 1:
            return [outputs]
        results, start = [], 0
        for count in rows:
            results.append([array[start : start + count] for array in outputs])
            start += count
        return results
