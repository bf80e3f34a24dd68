"""ONNX Runtime: one session per model version, shared by all runner threads (`run` releases the GIL).

Its inputs and outputs are converted to V2's tensors here: maps become columns (`core.maps`), types that numpy hasn't are
carried as bits (`ort_values`), text is decoded, a scalar has no dimensions whatever a client sent.
"""

import logging
import mmap
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.maps import MapColumns
from podpair.inference.core.model_config import RuntimeConfig
from podpair.inference.core.onnx_graph import OnnxModel, read_model
from podpair.inference.core.tensors import OMITTED, Array, TensorSpec, as_text_or_bytes
from podpair.inference.runtime.cpu import available_cores, layout
from podpair.inference.runtime.onnx_session import make_session, redirect_logs, session_options
from podpair.inference.runtime.ort_values import CARRIED, from_value, to_value

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
    **{name: carried.datatype for name, carried in CARRIED.items()},
}


class OnnxRuntime:
    """A `Runtime` for an ONNX file. FaultsError if ONNX Runtime can't load it, or V2 has no name for its types.

    inputs: names in model.yaml; an initialiser of the graph that is named there may be sent. outputs: those that are to be
    served, None: all; what V2 has no type for is left out where it isn't among them. libraries: of custom operators, for a
    model that has some.
    """

    platform = "onnxruntime_onnx"
    predicts = True
    takes_parameters = False
    calls_models = False

    def __init__(
        self,
        path: Path,
        config: RuntimeConfig,
        inputs: Collection[str] = (),
        outputs: Collection[str] | None = None,
        libraries: Callable[[], Sequence[Path]] = list,
    ) -> None:
        # From 1.29 on its builds for Linux report models, sessions and runs to Microsoft unless this is set before the import.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as ort  # a third of the start-up time: not before it is needed

        redirect_logs(ort)
        self.instances, threads = layout(available_cores(), config.instances, config.intra_op_threads)
        self._session = make_session(ort, path, config, session_options(ort, config, threads), libraries)
        # Whether everything is computed by the calling thread.
        self.inline = self._session.get_providers() == ["CPUExecutionProvider"]
        self._binds = config.io_binding
        self._invalid = ort.capi.onnxruntime_pybind11_state.InvalidArgument
        self._ort_value = ort.OrtValue
        optional = [node for node in self._session.get_overridable_initializers() if node.name in inputs]
        self.inputs = (
            *(_input(node, path) for node in self._session.get_inputs()),
            # A request may leave these out: the model has values of its own.
            *(replace(_input(node, path), optional=True) for node in optional),
        )
        self._path = path
        # Name → what the file calls each dimension of an input or output; None: a size, or no name.
        self.symbols: Mapping[str, tuple[str | None, ...]] = {
            node.name: tuple(size if isinstance(size, str) else None for size in node.shape)
            for node in (*self._session.get_inputs(), *optional, *self._session.get_outputs())
            if node.type in _DATATYPES
        }
        self._names = [spec.name for spec in self.inputs]
        types = {node.name: node.type for node in (*self._session.get_inputs(), *optional)}
        self._types = [types[name] for name in self._names]
        # The requested outputs, each once even if the graph names it twice; and those of them that are maps.
        nodes = _served({node.name: node for node in self._session.get_outputs()}, outputs, path)
        self._outputs = [node.name for node in nodes]
        self._maps = [_map(node) for node in nodes]
        self._specs = [None if map_ else _spec(node) for node, map_ in zip(nodes, self._maps, strict=True)]
        self._texts = [i for i, spec in enumerate(self.inputs) if spec.datatype == "BYTES"]
        self._by_value = not CARRIED.keys().isdisjoint([*self._types, *(node.type for node in nodes)])
        self._plain = not (self._by_value or optional or any(self._maps))
        if any(self._maps) or (_have_rows(self.inputs) and not _have_rows(self._output_specs())):
            self._observe()
        self.outputs = self._output_specs()
        log.info(
            "model loaded",
            extra={"path": str(path), "providers": self._session.get_providers(), "intra_op_threads": threads},
        )

    def _output_specs(self) -> tuple[TensorSpec, ...]:
        """Return the specs of the answer; a map is two tensors."""
        found: list[TensorSpec] = []
        for spec, columns in zip(self._specs, self._maps, strict=True):
            found += columns.specs if columns is not None else [spec] if spec is not None else []
        return tuple(found)

    def run(self, arrays: Sequence[Array], parameters: Sequence[Mapping[str, Any]] = ()) -> list[Array]:
        """See `Runtime.run`."""
        values = list(arrays)
        for i in self._texts:
            values[i] = as_text_or_bytes(values[i], self._names[i])
        try:
            if not self._plain:
                return self._run_special(values)
            if self._binds and not self._texts:
                return self._run_bound(values)
            outputs: list[Array] = self._session.run(self._outputs, dict(zip(self._names, values, strict=True)))
        except self._invalid as error:
            raise InvalidRequestError(f"the model refuses the input: {error}") from None
        except UnicodeDecodeError:
            raise InvalidRequestError(
                "the model's answer is text that isn't UTF-8, which ONNX Runtime doesn't hand over: send UTF-8"
            ) from None
        return outputs

    def _run_special(self, values: list[Array]) -> list[Array]:
        """Run with omitted inputs, types that numpy hasn't, or maps."""
        if self._by_value:
            feed = {
                name: to_value(self._ort_value, value, kind, name)
                for name, value, kind in zip(self._names, values, self._types, strict=True)
                if value is not OMITTED
            }
            answers: list[Any] = [from_value(value) for value in self._session.run_with_ort_values(self._outputs, feed)]
        else:
            given = {name: value for name, value in zip(self._names, values, strict=True) if value is not OMITTED}
            answers = self._session.run(self._outputs, given)
        found: list[Array] = []
        for answer, columns in zip(answers, self._maps, strict=True):
            found += [answer] if columns is None else columns.arrays(answer)
        return found

    def _observe(self) -> None:
        """Find out what the file doesn't say or says wrongly: the keys of maps, and outputs of rows that it calls fixed.

        LightGBM's exporter declares its labels as [1] and answers one for each row; with such an output nothing could be
        batched. For a model that can't be run with zeros the declaration is used.
        """
        if not _have_rows(self.inputs):
            return
        counts: list[list[int]] = []
        try:
            for rows in (2, 3):
                outputs = self.run([spec.zeros(rows) for spec in self.inputs])
                counts.append([array.shape[0] if array.ndim else 0 for array in outputs])
        except Exception as error:
            log.debug("zeros can't be run", extra={"error": str(error)})
            return
        at = 0
        for i, (spec, columns) in enumerate(zip(self._specs, self._maps, strict=True)):
            if spec is not None and (counts[0][at], counts[1][at]) == (2, 3):
                self._specs[i] = TensorSpec(spec.name, spec.datatype, (-1, *spec.shape[1:]))
            at += 1 if columns is None else 2

    def _run_bound(self, values: list[Array]) -> list[Array]:
        """Run with inputs bound in place, and outputs that the provider may keep until all are copied at once."""
        binding = self._session.io_binding()
        for name, value in zip(self._names, values, strict=True):
            binding.bind_cpu_input(name, np.asarray(value, order="C"))  # ascontiguousarray makes a scalar [1]
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        outputs: list[Array] = binding.copy_outputs_to_cpu()
        return outputs

    def read_graph(self) -> OnnxModel | None:
        """Parse the file's nodes; None if it isn't ONNX."""
        try:
            with self._path.open("rb") as file:
                # Not closed by name: a view of it may outlive an error.
                return read_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except (OSError, ValueError) as error:
            log.info("the graph can't be read", extra={"path": str(self._path), "error": str(error)})
            return None

    def close(self) -> None:
        """Do nothing: the session ends with its last reference."""


def _have_rows(specs: Sequence[TensorSpec]) -> bool:
    return all(spec.shape[:1] == (-1,) for spec in specs)


def _map(node: Any) -> MapColumns | None:
    return None if node.type in _DATATYPES else MapColumns(node.name, node.type, _DATATYPES)


def _served(nodes: Mapping[str, Any], wanted: Collection[str] | None, path: Path) -> list[Any]:
    """Return the outputs that can be served. Raises FaultsError if that excludes one that is wanted."""
    served, faults = [], []
    others = [_spec(node) for node in nodes.values() if node.type in _DATATYPES]
    for name, node in nodes.items():
        try:
            _map(node)
        except ValueError:
            if wanted is None or name in wanted:
                faults.append(f"{path}: output {name} is a {node.type}, which V2 can't send; {_remedy(others)}")
        else:
            served.append(node)
    if faults:
        raise FaultsError(faults)
    return served


def _remedy(others: Sequence[TensorSpec]) -> str:
    if not others:
        return "convert it in the model: the graph has to end in tensors"
    lines = ", ".join(f"{{name: {o.name}, datatype: {o.datatype}, shape: {list(o.shape)}}}" for o in others)
    return f"serve the others alone, in model.yaml: outputs: [{lines}]"


def _input(node: Any, path: Path) -> TensorSpec:
    if node.type in _DATATYPES:
        return _spec(node)
    remedy = "add a Cast of a tensor that can be sent in front of it"
    if "map(" in node.type:
        remedy = (
            "export what comes behind it (scikit-learn: the pipeline without its DictVectorizer), and send its columns"
        )
    elif "seq(" in node.type or "optional(" in node.type:
        remedy = "give the graph inputs of its own for the parts (SequenceConstruct, Optional)"
    sent = ", ".join(dict.fromkeys(_DATATYPES.values()))
    raise FaultsError([f"{path}: input {node.name} is a {node.type}; V2 can send only tensors of {sent}: {remedy}"])


def _spec(node: Any) -> TensorSpec:
    # A symbolic ("batch") or unknown (None) dimension is any size.
    return TensorSpec(
        node.name, _DATATYPES[node.type], tuple(size if isinstance(size, int) else -1 for size in node.shape)
    )
