"""Runs one batch, in any thread: concatenates its requests, runs and post-processes them, and splits the answers.

A batch that fails is bisected until the failing request is alone: one bad request costs its batch a few more runs, and no
other request its answer.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from podpair.inference.core.errors import (
    DeadlineExceededError,
    InferenceError,
    ModelEndedError,
    OverloadedError,
    UnavailableError,
    to_client_error,
)
from podpair.inference.core.request_context import NO_REQUEST, RequestContext, answering
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.core.v2 import check_results
from podpair.inference.runtime.protocol import Runtime

log = logging.getLogger(__name__)

# The model's process has ended, or what it needs is away, busy or late: smaller batches would fare no better.
_NOBODYS = (ModelEndedError, UnavailableError, OverloadedError, DeadlineExceededError)


@dataclass(slots=True, eq=False)
class BatchItem:
    """A request in a batch."""

    arrays: Sequence[Array]
    parameters: Mapping[str, Any]
    rows: int


@dataclass(slots=True)
class BatchOutcome:
    """The outcome of a batch."""

    # The answer or the error of each item.
    results: "Sequence[list[Array] | InferenceError]"
    # When it began, on `time.monotonic()`.
    began: float
    # Seconds by the runtime's clock, of a run that succeeded at once; else None.
    cost: float | None
    # Seconds in the model, and in post-processing.
    runtime: float
    postprocess: float


class BatchExecutor:
    """Runs batches of one model version; any number of threads may be in `run`.

    clock: times the runs, see `runtime.warmup.run_clock`.
    """

    def __init__(self, name: str, runtime: Runtime, signature: Signature, clock: Callable[[], float]) -> None:
        self._name = name
        self._runtime = runtime
        self._signature = signature
        self._clock = clock

    def run(self, items: Sequence[BatchItem], context: RequestContext = NO_REQUEST) -> BatchOutcome:
        """Run one batch; never raises. context: of its requests, which models have that may call others."""
        with answering(context):
            return self._run(items)

    def _run(self, items: Sequence[BatchItem]) -> BatchOutcome:
        started, begun = time.monotonic(), self._clock()
        try:
            inputs, parameters = self._concatenate(items)
            outputs = self._runtime.run(inputs, parameters)
            computed = time.monotonic()
            results = self._split(items, self._signature.postprocess(outputs))
        except Exception as error:
            return BatchOutcome(self._bisect(items, error), started, None, time.monotonic() - started, 0.0)
        return BatchOutcome(results, started, self._clock() - begun, computed - started, time.monotonic() - computed)

    def _bisect(self, items: Sequence[BatchItem], error: Exception) -> list[list[Array] | InferenceError]:
        """Run the halves of a failed batch; fail all its items if it failed for none of them, but for what the model needs."""
        if len(items) == 1 or isinstance(error, _NOBODYS):
            return [to_client_error(self._name, error)] * len(items)
        log.warning("a batch failed, its halves run", extra={"model": self._name, "requests": len(items)})
        middle = len(items) // 2
        return [result for half in (items[:middle], items[middle:]) for result in self._run(half).results]

    def _concatenate(self, items: Sequence[BatchItem]) -> tuple[Sequence[Array], list[Mapping[str, Any]]]:
        """Return one array for each input, without a copy if there is one item."""
        parameters: list[Mapping[str, Any]] = []
        if self._runtime.takes_parameters:
            parameters = [item.parameters for item in items for _ in range(item.rows)]
        if len(items) == 1:
            return items[0].arrays, parameters
        columns = zip(*[item.arrays for item in items], strict=True)
        return [np.concatenate(column) for column in columns], parameters

    def _split(self, items: Sequence[BatchItem], outputs: list[Array]) -> list[list[Array]]:
        """Return the rows of each item, as views. Raises ModelError if their number is wrong."""
        rows = [item.rows for item in items]
        check_results(self._signature.outputs, outputs, sum(rows) if self._signature.batchable else None)
        if len(items) == 1:
            return [outputs]
        results, start = [], 0
        for count in rows:
            results.append([array[start : start + count] for array in outputs])
            start += count
        return results
