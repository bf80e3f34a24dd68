"""Whether the requests to a model may share a run: what was decided, by whom, and how to override it.

Invariant: requests share a run only where a row's answer is the same alone and in company. This is known from
the model's author in model.yaml, a Python class by its contract (one answer for each element of the batch), and for an
ONNX model its graph and a probe together. Without that knowledge runs aren't shared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from podpair.inference.core.tensors import TensorSpec

RowsSetting = Literal["auto", "independent", "dependent", "none"]
Decider = Literal["model.yaml", "signature", "class", "graph", "probe"]


class Rows(Enum):
    """What the first dimension of a model's tensors is."""

    # Rows, each answered as it would be alone: requests share runs.
    INDEPENDENT = "independent"
    # Rows that answer to each other, as far as is known: each request runs alone, with all its rows.
    DEPENDENT = "dependent"
    # No rows: shapes are the model's own, and each request runs alone.
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RowDecision:
    """What was decided."""

    rows: Rows
    by: Decider
    # A sentence without its full stop.
    reason: str

    def advice(self) -> str:
        """Return what to write in model.yaml to override it; empty if nothing helps."""
        if self.by == "signature":
            return ""
        if self.rows is Rows.INDEPENDENT:
            return "to run each request alone, write `rows: dependent` (or `rows: none`) in model.yaml"
        if self.by == "model.yaml":
            return "without `rows` in model.yaml it is found out"
        return "if each row's answer is its own all the same, write `rows: independent` in model.yaml"


def without_rows(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """Return why the first dimension of these tensors isn't rows of any number; None if it is."""
    optional = next((spec for spec in inputs if spec.optional), None)
    if optional is not None:
        return f"a request may give {optional.name} or not"
    fixed = next((spec for spec in (*inputs, *outputs) if spec.shape[:1] != (-1,)), None)
    if fixed is None:
        return None
    kind = "is a scalar" if not fixed.shape else f"is {list(fixed.shape)}: its first dimension is of one size"
    return f"{fixed.name} {kind}"


def decide_by_shape(setting: RowsSetting, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> RowDecision:
    """Decide by model.yaml and the shapes; INDEPENDENT by "signature" is only a promise that is still to be verified.

    Raises ValueError if model.yaml says of a model without rows that they are independent.
    """
    why_not = without_rows(inputs, outputs)
    if setting == "none":
        return RowDecision(Rows.NONE, "model.yaml", "model.yaml says so")
    if why_not is not None:
        if setting != "auto":
            raise ValueError(f"rows: {setting}, but {why_not}; without rows: write rows: none, or leave it out")
        return RowDecision(Rows.NONE, "signature", why_not)
    if setting == "auto":
        return RowDecision(Rows.INDEPENDENT, "class", "predict answers each element of the batch")
    return RowDecision(Rows(setting), "model.yaml", "model.yaml says so")


def decide_by_symbols(
    inputs: Mapping[str, Sequence[str | None]], outputs: Mapping[str, Sequence[str | None]]
) -> RowDecision | None:
    """Decide by the names of the dimensions if they speak against rows; None if they don't.

    Exporters name outputs' dimensions as they like: a first dimension with a name of its own says nothing.
    """
    first = {symbols[0] for symbols in inputs.values()} - {None}
    inner = {symbol for symbols in inputs.values() for symbol in symbols[1:]} - {None}
    for name, symbols in (*inputs.items(), *outputs.items()):
        both = first & set(symbols[1:])
        if both and symbols[0] in first:
            return RowDecision(Rows.NONE, "graph", f"a row of {name} is as long as there are rows ({both.pop()})")
    for name, symbols in outputs.items():
        if symbols[0] in inner - first:
            return RowDecision(
                Rows.NONE, "graph", f"the first dimension of {name} is {symbols[0]}, which is no input's first"
            )
    return None


def decide(found: Rows, reason: str, hazards: Sequence[str], inputs: Sequence[TensorSpec]) -> RowDecision:
    """Combine what the probe has found and what the graph shows: runs are shared if neither speaks against it."""
    rows, by = found, "probe"
    if hazards and found is not Rows.NONE:
        rows, by, reason = Rows.DEPENDENT, "graph", ", ".join(hazards)
    if rows is Rows.DEPENDENT and any(len(spec.shape) == 1 and spec.datatype != "BYTES" for spec in inputs):
        # Samples of a sound, say: what would be a row is one number.
        rows = Rows.NONE
    return RowDecision(rows, "graph" if by == "graph" else "probe", reason)
