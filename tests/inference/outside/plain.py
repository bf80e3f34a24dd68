"""What plain ONNX Runtime answers, in V2's terms: maps as columns, texts as bytes. Nothing of podpair is used."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

# What a float may differ by of the largest number of its tensor: other threads add up in another order.
_TOLERANCES = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-5, np.dtype(np.float16): 1e-3}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# ONNX Runtime's types that numpy has by ml_dtypes, ONNX's numbers of them, and how many of them a byte has.
_ODD = {
    "bfloat16": (ml_dtypes.bfloat16, 16, 1), "float8e4m3fn": (ml_dtypes.float8_e4m3fn, 17, 1),
    "float8e4m3fnuz": (ml_dtypes.float8_e4m3fnuz, 18, 1), "float8e5m2": (ml_dtypes.float8_e5m2, 19, 1),
    "float8e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, 20, 1), "float8e8m0": (ml_dtypes.float8_e8m0fnu, 24, 1),
    "uint4": (ml_dtypes.uint4, 21, 2), "int4": (ml_dtypes.int4, 22, 2), "uint2": (ml_dtypes.uint2, 25, 4),
    "int2": (ml_dtypes.int2, 26, 4),
}  # fmt: skip
_NUMBERS = {np.dtype(dtype): (number, each) for dtype, number, each in _ODD.values()}


class Plain:
    """A model in plain ONNX Runtime. Raises what ONNX Runtime raises where it can't load it."""

    def __init__(self, model: Path | bytes) -> None:
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = self._session.get_inputs()
        self.outputs = self._session.get_outputs()

    def answer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Its outputs by name. Raises what ONNX Runtime raises."""
        names = list(dict.fromkeys(node.name for node in self.outputs))
        types = {node.type for node in (*self.inputs, *self.outputs)}
        if any(kind.removeprefix("tensor(").removesuffix(")") in _ODD for kind in types):
            feed = {name: _value(array) for name, array in inputs.items()}
            answers = [_array(value) for value in self._session.run_with_ort_values(names, feed)]
        else:
            answers = self._session.run(names, dict(inputs))
        found: dict[str, Any] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, np.ndarray | np.generic):
                found[name] = in_bytes(np.asarray(answer))
            else:
                maps = answer if isinstance(answer, list) else [answer]
                found[name] = np.array([list(row.values()) for row in maps])
                found[f"{name}_labels"] = in_bytes(np.array([list(row) for row in maps]))
        return found


def _value(array: Any) -> Any:
    if array.dtype not in _NUMBERS:
        return ort.OrtValue.ortvalue_from_numpy(array)
    number, each = _NUMBERS[array.dtype]
    if each == 1:
        bits = array.view(np.uint16 if array.dtype == BFLOAT16 else np.uint8)
    else:
        packed = [0] * array.size
        for i, value in enumerate(array.ravel().tolist()):
            packed[i // each] |= (int(value) & ((1 << 8 // each) - 1)) << (i % each * 8 // each)
        bits = np.array(packed, np.uint8).reshape(array.shape)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def _array(value: Any) -> Any:
    kind = value.data_type().removeprefix("tensor(").removesuffix(")")
    if kind not in _ODD:
        return value.numpy()
    dtype, _, each = _ODD[kind]
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    if each == 1:
        return sent(np.frombuffer(content, dtype).reshape(value.shape()))
    width, count = 8 // each, int(np.prod(value.shape()))
    values = [content[i // each] >> (i % each * width) & ((1 << width) - 1) for i in range(count)]
    if kind.startswith("int"):
        values = [v - (1 << width) if v >> (width - 1) else v for v in values]
    return np.array(values, np.int8 if kind.startswith("int") else np.uint8).reshape(value.shape())


def sent(array: Any) -> Any:
    """How a tensor is sent whose datatype V2 doesn't have: an FP8 by its bits, integers of 4 and 2 bits as bytes."""
    if array.dtype == BFLOAT16 or array.dtype not in _NUMBERS:
        return array
    if _NUMBERS[array.dtype][1] == 1:
        return array.view(np.uint8)
    return array.astype(np.int8 if "uint" not in array.dtype.name else np.uint8)


def in_bytes(array: Any) -> Any:
    """Texts as the bytes that they are sent as; all else as it is."""
    if array.dtype.kind not in "OUS":
        return array
    found = np.empty(array.shape, object)
    found.reshape(-1)[:] = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
    return found


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """In what an answer isn't the expected one; None: it is."""
    if list(found) != list(expected):
        return f"outputs {list(found)}, expected {list(expected)}"
    for name, want in expected.items():
        have = in_bytes(np.asarray(found[name]))
        if (have.shape, have.dtype.kind) != (want.shape, want.dtype.kind):
            return f"{name} is {have.dtype} {have.shape}, expected {want.dtype} {want.shape}"
        if not _alike(have, want):
            return f"{name} is {have.ravel()[:5].tolist()}…, expected {want.ravel()[:5].tolist()}…"
    return None


def _alike(have: Any, want: Any) -> bool:
    if want.dtype == object:
        return bool(np.array_equal(have, want))
    if np.array_equal(have, want, equal_nan=want.dtype.kind == "f" or want.dtype == BFLOAT16):
        return True
    tolerance = _TOLERANCES.get(want.dtype)
    if tolerance is None or not np.array_equal(finite := np.isfinite(want), np.isfinite(have)):
        return False
    if not np.array_equal(have[~finite], want[~finite], equal_nan=True):
        return False
    have, want = have[finite].astype(np.float64), want[finite].astype(np.float64)
    return bool(np.abs(have - want).max() <= tolerance * np.abs(want).max())
