"""ONNX Runtime: one session per model version, shared by all runner threads (`run` releases the GIL)."""

import logging
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from podpair.inference.core.errors import FaultsError, InvalidRequestError
from podpair.inference.core.model_config import ProviderConfig, RuntimeConfig
from podpair.inference.core.onnx_graph import OnnxModel, read_model
from podpair.inference.core.tensors import Array, TensorSpec, as_text
from podpair.inference.runtime.cpu import available_cores, layout

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
# What providers are called where their name isn't ONNX Runtime's.
_ALIASES = {"trt": "tensorrt"}


class OnnxRuntime:
    """A `Runtime` for `model.onnx`. FaultsError if ONNX Runtime can't load it, or V2 has no name for its types."""

    platform = "onnxruntime_onnx"
    predicts = True
    takes_parameters = False

    def __init__(self, path: Path, config: RuntimeConfig) -> None:
        # From 1.29 on its builds for Linux tell Microsoft of models, sessions and runs unless this is set before the import.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as ort  # a third of the start-up time: not before it is needed

        self.instances, threads = layout(available_cores(), config.instances, config.intra_op_threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = config.inter_op_threads
        if config.inter_op_threads > 1:
            options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        options.log_severity_level = 3
        # Idle threads sleep instead of spinning: the other half of the pod needs the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if config.cpus and threads > 1:
            # Of ONNX Runtime's own threads; the one that calls it is bound by whoever made it. Its cores begin at 1.
            own = [str(config.cpus[i % len(config.cpus)] + 1) for i in range(1, threads)]
            options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(own))
        try:
            self._session = ort.InferenceSession(
                path, options, providers=_providers(config.providers, ort.get_available_providers(), path)
            )
        except FaultsError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise FaultsError([f"{path}: ONNX Runtime can't load it: {error}"]) from error
        # Where all is computed by the thread that calls.
        self.inline = self._session.get_providers() == ["CPUExecutionProvider"]
        self._binds = config.io_binding
        self._invalid = ort.capi.onnxruntime_pybind11_state.InvalidArgument
        self.inputs = tuple(_spec(node, path) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in self._session.get_outputs())
        self._path = path
        # Name → what the file calls each dimension of an input or output; None: a size, or no name.
        self.symbols: Mapping[str, tuple[str | None, ...]] = {
            node.name: tuple(size if isinstance(size, str) else None for size in node.shape)
            for node in (*self._session.get_inputs(), *self._session.get_outputs())
        }
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
            if self._binds and not self._texts:
                return self._run_bound(values)
            outputs: list[Array] = self._session.run(self._outputs, dict(zip(self._names, values, strict=True)))
        except self._invalid as error:
            raise InvalidRequestError(f"the model refuses the input: {error}") from None
        return outputs

    def _run_bound(self, values: list[Array]) -> list[Array]:
        """With the inputs where they are, and outputs that the provider may keep until all are copied at once."""
        binding = self._session.io_binding()
        for name, value in zip(self._names, values, strict=True):
            binding.bind_cpu_input(name, np.asarray(value, order="C"))  # ascontiguousarray makes a scalar [1]
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        outputs: list[Array] = binding.copy_outputs_to_cpu()
        return outputs

    def read_graph(self) -> OnnxModel | None:
        """The file's nodes; None where it can't be read as ONNX."""
        try:
            with self._path.open("rb") as file:
                # Not closed by name: a view of it may outlive an error.
                return read_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except (OSError, ValueError) as error:
            log.info("the graph can't be read", extra={"path": str(self._path), "error": str(error)})
            return None

    def close(self) -> None:
        """Nothing: the session ends with its last reference."""


def _providers(
    asked: Sequence[str | ProviderConfig], available: Sequence[str], path: Path
) -> list[tuple[str, dict[str, Any]]]:
    """Those that are there, in the order in which they are tried. Raises FaultsError if none is."""
    known = {name.removesuffix("ExecutionProvider").lower(): name for name in available}
    found = []
    for provider in asked:
        one = ProviderConfig(name=provider) if isinstance(provider, str) else provider
        name = known.get(_ALIASES.get(one.name.lower(), one.name.lower().removesuffix("executionprovider")))
        if name is None:
            log.info("an execution provider isn't there", extra={"provider": one.name, "path": str(path)})
        else:
            found.append((name, {key: str(value) for key, value in one.options.items()}))
    if not found:
        names = ", ".join(provider if isinstance(provider, str) else provider.name for provider in asked)
        raise FaultsError([f"{path}: none of runtime.providers ({names}) is there; use {', '.join(available)}"])
    return found


def _spec(node: Any, path: Path) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise FaultsError(
            [f"{path}: {node.name} is a {node.type}; only tensors of {', '.join(_DATATYPES)} can be served"]
        )
    # A symbolic ("batch") or unknown (None) dimension is any size.
    return TensorSpec(node.name, datatype, tuple(size if isinstance(size, int) else -1 for size in node.shape))
