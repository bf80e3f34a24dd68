"""The first runs of a model, with zeros: lazy initialisation is done before the first request, and run times are learnt.

Zeros are no real request. A model that can't process them is served all the same, unless its model.yaml asks for the warm-up:
clients may send what it can process.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.run_times import RunTimes
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import OMITTED, Array, TensorSpec
from podpair.inference.runtime.protocol import Runtime
from podpair.inference.runtime.repository import ModelFolder

log = logging.getLogger(__name__)

# The most rows of a batch if model.yaml doesn't say.
LARGEST = 64
# What dimensions of any size are tried as: many models need a multiple of 32, or so many samples of sound.
SIZES = (1, 32, 256, 512)
# Larger inputs aren't made up, elements.
_MOST_ELEMENTS = 1 << 24
# How long the search for the best size of a batch may take, in seconds.
_SEARCH_SECONDS = 0.2

# What first dimensions of any size are, and other ones.
Shape = tuple[int, int]


class NoSampleError(Exception):
    """No zeros that were tried can be run; the message says which, and what the model said to the first."""


def warm_up(runtime: Runtime, signature: Signature, folder: ModelFolder, version: int) -> RunTimes:
    """Run zeros, so that the first request doesn't pay for lazy initialisation.

    Then find out what a run takes with one row, two, four, …, as long as a row gets cheaper. Raises FaultsError if rows
    that model.yaml asks for can't be run.
    """
    declared = folder.config.warmup.rows if runtime.predicts else ()
    times = RunTimes(
        folder.config.runtime.inline_below_ms / 1000 if runtime.inline else 0, largest_batch(folder.config, signature)
    )
    started = time.monotonic()
    try:
        _run_all(runtime, signature, folder.config, (1,) if declared is None else declared, times)
    except Exception as error:
        where = f"{folder.path / str(version)}: the warm-up with zeros failed"
        if declared is not None:
            raise FaultsError([f"{where}: {error}; if the model can't take zeros, set warmup.rows: []"]) from error
        log.warning(
            "%s, and the model is served without it: %s; write the sizes that it takes into model.yaml, "
            "warmup: {sizes: [640]}, or leave it out: warmup: {rows: []}",
            where,
            error,
            extra={"model": folder.name, "version": version},
        )
        return times
    log.info(
        "model warmed up",
        extra={"model": folder.name, "version": version, "ms": round((time.monotonic() - started) * 1000, 1)},
    )
    return times


def sample(runtime: Runtime, signature: Signature, config: ModelConfig, rows: int = 1) -> tuple[list[Array], Shape]:
    """Return zeros that the model accepts, which have been run once, and their first and their other dimensions of any size.

    Raises NoSampleError.
    """
    specs = signature.model_inputs
    tried: list[Shape] = []
    first: Exception | None = None
    for shape in _shapes(specs, config.warmup.sizes or SIZES, rows if signature.batchable else None):
        arrays = _zeros(specs, shape)
        tried.append(shape)
        try:
            signature.postprocess(runtime.run(arrays))
        except Exception as error:
            first = first or error
        else:
            return arrays, shape
    sizes = ", ".join(dict.fromkeys(str(shape[1]) for shape in tried))
    raise NoSampleError(f"{first}" + (f" (with {sizes} for dimensions of any size)" if len(tried) > 1 else ""))


def _zeros(specs: Sequence[TensorSpec], shape: Shape) -> list[Array]:
    return [OMITTED if spec.optional else spec.zeros(*shape) for spec in specs]


def _shapes(specs: Sequence[TensorSpec], sizes: Sequence[int], rows: int | None) -> Iterator[Shape]:
    """Yield what to try for dimensions of any size. rows: the first dimensions, if they are rows; they may be 1 otherwise."""
    heads = any(spec.shape[:1] == (-1,) for spec in specs)
    inner = any(-1 in spec.shape[1:] for spec in specs)
    for size in sizes if inner or (heads and rows is None) else sizes[:1]:
        for head in (rows,) if rows is not None else (1, size) if heads and size > 1 else (size,):
            counts = [
                math.prod([head if i == 0 else size for i, known in enumerate(spec.shape) if known < 0])
                * math.prod(known for known in spec.shape if known >= 0)
                for spec in specs
            ]
            if max(counts, default=0) <= _MOST_ELEMENTS or size == sizes[0]:
                yield head, size


def _run_all(
    runtime: Runtime, signature: Signature, config: ModelConfig, declared: Sequence[int], times: RunTimes
) -> None:
    """Run batches of these sizes, then time others if that is worth it. Raises what the model raises."""
    if not declared:
        return
    _, shape = sample(runtime, signature, config, declared[0])
    run = _timed(runtime, signature, shape)
    for count in declared[1:]:
        run(count)
    if config.warmup.rows is not None or not runtime.inline:
        return
    started, rows = time.monotonic(), 1
    while True:
        run(rows)
        times.seed(rows, min(run(rows) for _ in range(3)))
        if times.converged() or time.monotonic() - started > _SEARCH_SECONDS:
            return
        rows = times.worthwhile


def _timed(runtime: Runtime, signature: Signature, shape: Shape) -> Callable[[int], float]:
    clock = run_clock(runtime)

    def run(rows: int) -> float:
        head = rows if signature.batchable else shape[0]
        arrays = _zeros(signature.model_inputs, (head, shape[1]))
        begun = clock()
        signature.postprocess(runtime.run(arrays))
        return clock() - begun

    return run


def largest_batch(config: ModelConfig, signature: Signature) -> int:
    """Return the most rows of a batch."""
    return (config.batching.max_items or LARGEST) if signature.batchable else 1


def run_clock(runtime: Runtime) -> Callable[[], float]:
    """Return the clock for runs: the calling thread's CPU time if it computes everything, which is the same on a busy machine."""
    return time.thread_time if runtime.inline else time.monotonic
