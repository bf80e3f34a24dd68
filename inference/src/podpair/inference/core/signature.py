"""What a model version takes and gives, once its metadata and its `model.yaml` have been put together."""

from collections.abc import Sequence
from dataclasses import dataclass

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.model_config import ModelConfig, TensorConfig
from podpair.inference.core.postprocess import PostProcess
from podpair.inference.core.preprocess import PreProcess
from podpair.inference.core.row_decision import RowDecision, Rows, decide_by_shape, without_rows
from podpair.inference.core.tensors import OMITTED, Array, TensorSpec, all_finite


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input, and whether NaN and infinities are allowed in it."""

    tensor: TensorSpec
    allow_nan: bool


class Signature:
    """Inputs and outputs of a model version as they are served: before pre-processing, after post-processing.

    `model_inputs` are the model's own.

    `decision`: what the first dimension of all tensors is. `has_rows`: it is rows, of any number. `batchable`: each row is
    answered as it would be alone, so that requests share runs; otherwise each request runs alone and counts as one.
    """

    def __init__(
        self, config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], source: str
    ) -> None:
        declared = {tensor.name: tensor for tensor in config.inputs}
        found = {spec.name: spec for spec in inputs}
        faults = [
            f"inputs.{name}: the model has no such input; it has {', '.join(found)}"
            for name in declared
            if name not in found
        ]
        faults += [
            fault
            for name, spec in found.items()
            if name in declared
            for fault in _differences("inputs", declared[name], spec)
        ]
        self.model_inputs = tuple(
            TensorSpec(name, spec.datatype, declared[name].shape if name in declared else spec.shape, spec.optional)
            for name, spec in found.items()
        )
        try:
            self.preprocess = PreProcess(config.preprocess, self.model_inputs)
            self.postprocess = PostProcess(
                config.postprocess, outputs, [tensor.name for tensor in config.outputs] or None
            )
            needed = [outputs[i] for i in self.postprocess.needed]
            self.decide(decide_by_shape(config.rows, self.model_inputs, needed))
        except ValueError as error:
            raise FaultsError([f"{source}: {fault}" for fault in [*faults, str(error)]]) from None
        self.inputs = tuple(
            InputSpec(spec, spec.name in declared and declared[spec.name].allow_nan) for spec in self.preprocess.inputs
        )
        for tensor, spec in zip(config.outputs, self.postprocess.outputs, strict=False):
            faults += _differences("outputs", tensor, spec)
        if faults:
            raise FaultsError([f"{source}: {fault}" for fault in faults])
        self.outputs = self.postprocess.outputs
        self.by_name = {spec.tensor.name: i for i, spec in enumerate(self.inputs)}
        # Output → labels of its values, if post-processing has some.
        self.labels = self.postprocess.labels
        self._optional = [i for i, spec in enumerate(self.inputs) if spec.tensor.optional]

    def decide(self, decision: RowDecision) -> None:
        """Set what the rows are, before the first request."""
        self.decision = decision
        self.has_rows = decision.rows is not Rows.NONE
        self.batchable = decision.rows is Rows.INDEPENDENT

    def rows(self, arrays: Sequence[Array]) -> int:
        """Return how many rows of a run a request needs, which may be none; 1 if it runs alone.

        Raises InvalidRequestError if its inputs don't agree.
        """
        return self.count_rows(arrays) if self.batchable else 1

    def count_rows(self, arrays: Sequence[Array]) -> int:
        """Return how many rows a request has, if the model has rows. Raises InvalidRequestError if its inputs don't agree."""
        rows: set[int] = {array.shape[0] for array in arrays}
        if len(rows) > 1:
            sizes = ", ".join(f"{spec.tensor.name} {a.shape[0]}" for spec, a in zip(self.inputs, arrays, strict=True))
            raise InvalidRequestError(f"the inputs have different numbers of rows: {sizes}")
        (count,) = rows
        return count

    def check_header(self, index: int, datatype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which the model takes the input, before the data is read.

        One value is one value: what the model takes without dimensions may be sent as [1] or [1, 1], because most
        clients can't send it otherwise. Raises InvalidRequestError unless datatype and shape are what the model takes.
        """
        spec = self.inputs[index].tensor
        expected = spec.shape
        if (
            datatype == spec.datatype
            and shape[1:] == expected[1:]
            and shape
            and expected
            and expected[0] in (-1, shape[0])
        ):
            return shape  # as it mostly is
        if datatype != spec.datatype:
            raise InvalidRequestError(f"input {spec.name!r}: datatype {datatype}, the model takes {spec.datatype}")
        if not expected and set(shape) <= {1}:
            return expected
        if len(shape) != len(spec.shape) or any(
            want not in (-1, have) for have, want in zip(shape, spec.shape, strict=True)
        ):
            takes = list(spec.shape) if expected else "one value, [] or [1]"
            raise InvalidRequestError(f"input {spec.name!r}: shape {list(shape)}, the model takes {takes}")
        return shape

    def complete(self, arrays: list[Array | None]) -> tuple[Array, ...]:
        """Return the arrays of all inputs. Raises InvalidRequestError if a required one is missing."""
        for index in self._optional:
            if arrays[index] is None:
                arrays[index] = OMITTED
        given = tuple([array for array in arrays if array is not None])
        if len(given) < len(arrays):
            missing = next(name for name, index in self.by_name.items() if arrays[index] is None)
            raise InvalidRequestError(f"input {missing!r} is missing")
        return given

    def check_values(self, index: int, array: Array) -> None:
        """Raise InvalidRequestError for NaN and infinities if the model doesn't accept them."""
        spec = self.inputs[index]
        if not spec.allow_nan and not all_finite(array):
            raise InvalidRequestError(
                f"input {spec.tensor.name!r}: NaN or infinity, or a number too large for {spec.tensor.datatype}"
            )


def is_batchable(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Return whether every tensor has rows of any number as its first dimension."""
    return without_rows(inputs, outputs) is None


def _differences(section: str, declared: TensorConfig, spec: TensorSpec) -> list[str]:
    faults = []
    where = f"{section}.{declared.name}"
    if declared.datatype != spec.datatype:
        faults.append(f"{where}: datatype {declared.datatype}, but the model has {spec.datatype}")
    fits = len(declared.shape) == len(spec.shape) and all(
        -1 in (mine, its) or mine == its for mine, its in zip(declared.shape, spec.shape, strict=True)
    )
    if not fits:
        faults.append(f"{where}: shape {list(declared.shape)}, but the model has {list(spec.shape)}")
    return faults
