"""What the rest of the container needs of something that runs a model: ONNX Runtime, or whatever joins it."""

from collections.abc import Sequence
from typing import Protocol

from podpair.inference.core.tensors import Array, TensorSpec


class Runtime(Protocol):
    """One loaded model version; `run` is called from several threads at once."""

    # As V2's metadata calls it, `onnxruntime_onnx`.
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """One batch: an array for each of `inputs`, answered by an array for each of `outputs`.

        Raises InvalidRequestError if the values are at fault, anything else if the model is.
        """
        ...
