"""podpair.v1: a payload becomes one row of the model's only input, the outputs become scores and a label."""

import math
from collections.abc import Sequence

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import DATATYPES, Array, TensorSpec, from_raw, to_json


def decode_payload(payload: bytes, signature: Signature) -> tuple[Array, ...]:
    """Decode one row. Raises InvalidRequestError if the model has several inputs, or the payload isn't one row."""
    if len(signature.inputs) != 1:
        raise InvalidRequestError(f"the model has {len(signature.inputs)} inputs: ask it with V2's ModelInfer")
    spec = signature.inputs[0].tensor
    shape = (1, *spec.shape[1:]) if signature.has_rows else spec.shape
    if spec.datatype == "BYTES":
        raw = len(payload).to_bytes(4, "little") + payload
        array = from_raw(memoryview(raw), "BYTES", tuple(abs(size) for size in shape), spec.name)
    else:
        array = from_raw(memoryview(payload), spec.datatype, _complete(shape, len(payload), spec), spec.name)
    signature.check_values(0, array)
    return (array,)


def encode_answer(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> tuple[list[float], str]:
    """Return as scores the first output of floats, flat; as label the first of text, else of integers, else an empty text."""
    scores: list[float] = []
    labels: dict[str, str] = {}
    for spec, array in zip(specs, arrays, strict=True):
        kind = spec.datatype[:2]
        if kind in ("FP", "BF") and not scores:
            scores = to_json(array)
        elif kind not in ("FP", "BF") and array.size:
            value = array.ravel()[0]
            text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            labels.setdefault("text" if kind == "BY" else "number", text)
    return scores, labels.get("text", labels.get("number", ""))


def _complete(shape: tuple[int, ...], length: int, spec: TensorSpec) -> tuple[int, ...]:
    """Compute the shape's only unknown size from the length."""
    unknown = [i for i, size in enumerate(shape) if size < 0]
    known = math.prod(size for size in shape if size > 0) * DATATYPES[spec.datatype].itemsize
    if len(unknown) > 1 or (unknown and (not known or length % known)):
        raise InvalidRequestError(
            f"{length} bytes don't determine the shape of input {spec.name!r}, {list(spec.shape)}"
        )
    return tuple(length // known if size < 0 else size for size in shape)
