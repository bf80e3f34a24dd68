"""Declared post-processing: softmax and argmax over whole batches, in numpy."""

from collections.abc import Callable, Sequence

import numpy as np

from podpair.inference.core.model_config import ArgmaxConfig, SoftmaxConfig, Step
from podpair.inference.core.tensors import Array, TensorSpec

Function = Callable[[Array], Array]


class PostProcess:
    """The model's outputs turned into the served ones.

    steps: as declared, their label files already read into `labels`. produced: the model's own outputs. served: names of
    the outputs to serve, in this order; None: all that no step has consumed. Raises ValueError naming the first fault.
    """

    def __init__(self, steps: Sequence[Step], produced: Sequence[TensorSpec], served: Sequence[str] | None) -> None:
        specs = {spec.name: spec for spec in produced}
        self._produced = tuple(specs)
        self._steps: list[tuple[str, str, Function]] = []
        for step in steps:
            source = specs.get(step.input)
            if source is None:
                raise ValueError(f"postprocess.{step.op}: no output {step.input!r}; there are {', '.join(specs)}")
            if not source.datatype.startswith("FP") or len(source.shape) < 2:
                raise ValueError(
                    f"postprocess.{step.op}: {step.input} is {source.datatype} {list(source.shape)}, not scores by row"
                )
            if step.output in specs:
                raise ValueError(f"postprocess.{step.op}: there is an output {step.output!r} already")
            function, spec = _softmax(step, source) if isinstance(step, SoftmaxConfig) else _argmax(step, source)
            specs[spec.name] = spec
            self._steps.append((step.input, spec.name, function))
        # Scores → labels of their last dimension: those of an argmax are for its input, and for what is derived from that.
        self.labels: dict[str, tuple[str, ...]] = {
            step.input: step.labels for step in steps if isinstance(step, ArgmaxConfig) and step.labels is not None
        }
        for step in steps:
            if isinstance(step, SoftmaxConfig) and step.input in self.labels:
                self.labels.setdefault(step.output, self.labels[step.input])
        for step in reversed(steps):
            if isinstance(step, SoftmaxConfig) and step.output in self.labels:
                self.labels.setdefault(step.input, self.labels[step.output])
        consumed = {step.input for step in steps}
        names = [name for name in specs if name not in consumed] if served is None else served
        unknown = [name for name in names if name not in specs]
        if unknown:
            raise ValueError(f"outputs: no output {unknown[0]!r}; there are {', '.join(specs)}")
        self.outputs = tuple(specs[name] for name in names)
        # Which of the model's own outputs are served, or consumed.
        self.needed = tuple(i for i, name in enumerate(self._produced) if name in consumed or name in names)

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """The served outputs, in the order of `outputs`."""
        values = dict(zip(self._produced, arrays, strict=True))
        for source, target, function in self._steps:
            values[target] = function(values[source])
        return [values[spec.name] for spec in self.outputs]


def softmax(logits: Array) -> Array:
    """Compute exp(x - max) / sum over the last dimension: never overflows, keeps the dtype.

    FP16 is computed in FP32: a sum of more than 65,504 is infinite in FP16.
    """
    wide = logits.astype(np.result_type(logits, np.float32), copy=False)
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    result: Array = exponentials.astype(logits.dtype, copy=False)
    return result


def _softmax(step: SoftmaxConfig, source: TensorSpec) -> tuple[Function, TensorSpec]:
    return softmax, TensorSpec(step.output, source.datatype, source.shape)


def _argmax(step: ArgmaxConfig, source: TensorSpec) -> tuple[Function, TensorSpec]:
    shape, classes = source.shape[:-1], source.shape[-1]
    if step.labels is None:
        return lambda scores: scores.argmax(axis=-1), TensorSpec(step.output, "INT64", shape)
    if classes not in (-1, len(step.labels)):
        raise ValueError(f"postprocess.argmax: {len(step.labels)} labels for {classes} scores in {step.input!r}")
    if any(not label or label.endswith("\0") for label in step.labels):
        raise ValueError("postprocess.argmax: a label is empty or ends in a NUL character")
    # A fixed-width table: a batch's labels are one take() here and one copy when they are encoded.
    table = np.array([label.encode() for label in step.labels])
    return lambda scores: table[scores.argmax(axis=-1)], TensorSpec(step.output, "BYTES", shape)
