"""ONNX Runtime: one session per model version, shared by all runner threads (`run` releases the GIL)."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from podpair.inference.core.errors import FaultsError, InvalidRequestError
from podpair.inference.core.model_config import RuntimeConfig
from podpair.inference.core.tensors import Array, TensorSpec, as_text
from podpair.inference.runtime.cpu import available_cores, compute_threads

log = logging.getLogger(__name__)

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxRuntime:
    """A `Runtime` for `model.onnx`. FaultsError if ONNX Runtime can't load it, or V2 has no name for its types."""

    platform = "onnxruntime_onnx"
    predicts = True
    inline = True
    takes_parameters = False

    def __init__(self, path: Path, config: RuntimeConfig) -> None:
        import onnxruntime as ort  # a third of the start-up time: not before it is needed

        options = ort.SessionOptions()
        options.intra_op_num_threads = config.intra_op_threads or compute_threads(available_cores(), config.instances)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle threads sleep instead of spinning: the other half of the pod needs the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        available = ort.get_available_providers()
        providers = [name for name in config.providers if name in available]
        if not providers:
            raise FaultsError(
                [
                    f"{path}: none of runtime.providers ({', '.join(config.providers)}) is there; "
                    f"use {', '.join(available)}"
                ]
            )
        try:
            self._session = ort.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise FaultsError([f"{path}: ONNX Runtime can't load it: {error}"]) from error
        self._invalid = ort.capi.onnxruntime_pybind11_state.InvalidArgument
        self.inputs = tuple(_spec(node, path) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.inputs]
        self._outputs = [spec.name for spec in self.outputs]
        self._texts = [i for i, spec in enumerate(self.inputs) if spec.datatype == "BYTES"]
        log.info(
            "model loaded",
            extra={
                "path": str(path),
                "providers": self._session.get_providers(),
                "intra_op_threads": options.intra_op_num_threads,
            },
        )

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> list[Array]:
        """See `Runtime.run`."""
        values = list(arrays)
        for i in self._texts:
            values[i] = as_text(values[i], self._names[i])
        try:
            outputs: list[Array] = self._session.run(self._outputs, dict(zip(self._names, values, strict=True)))
        except self._invalid as error:
            raise InvalidRequestError(f"the model refuses the input: {error}") from None
        return outputs

    def close(self) -> None:
        """Nothing: the session ends with its last reference."""


def _spec(node: Any, path: Path) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise FaultsError(
            [f"{path}: {node.name} is a {node.type}; only tensors of {', '.join(_DATATYPES)} can be served"]
        )
    # A symbolic ("batch") or unknown (None) dimension is any size.
    return TensorSpec(node.name, datatype, tuple(size if isinstance(size, int) else -1 for size in node.shape))
