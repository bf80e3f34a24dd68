"""Decides, while a model is loaded, whether requests to it may share runs; the decision is logged with its reason.

model.yaml and the shapes come first, then the names of the dimensions, then graph and probe together. Only ONNX models are
probed: nothing else tells how their rows are answered. A Python class answers by its contract, one answer for each element of
the batch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.onnx_graph import OnnxModel
from podpair.inference.core.row_decision import RowDecision, Rows, decide, decide_by_symbols
from podpair.inference.core.row_hazards import row_hazards
from podpair.inference.core.row_probe import Hints, ProbedInput, RowProbe
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.runtime.protocol import Runtime

log = logging.getLogger(__name__)

# How long a probe may take if runs are short, in seconds of the runs' clock; else four runs.
_SECONDS = 0.12


@runtime_checkable
class GraphRuntime(Protocol):
    """A runtime whose model is a graph that can be looked at."""

    # Name of an input or output → what each dimension is called, or None.
    symbols: Mapping[str, tuple[str | None, ...]]

    def read_graph(self) -> OnnxModel | None:
        """Return the graph, if it can be read."""
        ...


def establish_rows(
    runtime: Runtime, signature: Signature, config: ModelConfig, clock: Callable[[], float], *, model: str, version: int
) -> None:
    """Decide what the rows of a model are; set it in the signature, and log it."""
    if config.rows == "auto" and signature.has_rows and isinstance(runtime, GraphRuntime):
        signature.decide(_found(runtime, runtime, signature, config.warmup.sizes, clock))
    decision = signature.decision
    record = {
        "model": model,
        "version": version,
        "rows": decision.rows.value,
        "by": decision.by,
        "reason": decision.reason,
    }
    if decision.rows is Rows.INDEPENDENT or decision.by in ("signature", "model.yaml"):
        log.info("rows established", extra=record)
        return
    log.warning(
        "%s/%d: each request runs alone (rows: %s), by its %s: %s; %s",
        model, version, decision.rows.value, decision.by, decision.reason, decision.advice(), extra=record,
    )  # fmt: skip


def _found(
    runtime: Runtime, graph: GraphRuntime, signature: Signature, sizes: Sequence[int], clock: Callable[[], float]
) -> RowDecision:
    needed = signature.postprocess.needed
    names = [runtime.outputs[i].name for i in needed]
    inputs = [ProbedInput(spec, graph.symbols.get(spec.name, (None,))) for spec in signature.model_inputs]
    by_symbols = decide_by_symbols(
        {probed.spec.name: probed.symbols for probed in inputs},
        {name: graph.symbols.get(name, (None,)) for name in names},
    )
    if by_symbols is not None:
        return by_symbols
    read = graph.read_graph()
    hazards = [] if read is None else row_hazards(read, names)

    def run(arrays: Sequence[Array]) -> list[Array]:
        answers = runtime.run(arrays)
        return [answers[i] for i in needed]

    words = () if read is None else read.words
    finding = RowProbe(run, inputs, names, clock, Hints(_SECONDS, sizes, words)).find()
    return decide(finding.rows, finding.reason, hazards, signature.model_inputs)
