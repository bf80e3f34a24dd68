"""The generate extension's request and response: one row as plain JSON, its tensors as members by their names.

    {"id": "r-1", "input": "hello", "parameters": {"max_tokens": 5}}  →  {"model_name": …, "model_version": …, "output": "hi"}

A value is a row without its batch dimension; a row of one element is that element. `text_input` stands for the only text
input, and `text_output` then for the only output: what tools for Triton's LLM back-ends send and read.

Source: Triton's "generate extension" of the Open Inference Protocol V2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from podpair.common.v2.non_finite import decode, named
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import OMITTED, Array, TensorSpec, from_json, to_json

_ANY_INPUT, _ANY_OUTPUT = "text_input", "text_output"

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class GenerateRequest:
    """A request of one row. `arrays` are in the order of the signature's inputs."""

    id: str | None
    arrays: tuple[Array, ...]
    parameters: Mapping[str, Any]
    # What each output is called in the answer.
    names: Sequence[str]


def decode_generate(body: bytes | bytearray | memoryview, signature: Signature) -> GenerateRequest:
    """Decode the request in `body` and check it against the model. Raises InvalidRequestError."""
    try:
        members = decode(_decoder, body)
        request_id = msgspec.json.decode(members.pop("id", b"null"), type=str | None)
        parameters = msgspec.json.decode(members.pop("parameters", b"{}"), type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"not a generate request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the request is not JSON: {error}") from None
    names = [spec.name for spec in signature.outputs]
    alias = _text_input(signature)
    if alias is not None and _ANY_INPUT in members and alias not in members:
        members[alias] = members.pop(_ANY_INPUT)
        names = [_ANY_OUTPUT] if len(names) == 1 else names
    for name in members:
        if name not in signature.by_name:
            raise InvalidRequestError(
                f"no input {name!r}; the model takes {', '.join(signature.by_name)}, all else goes into parameters"
            )
    arrays = []
    for index, spec in enumerate(signature.inputs):
        raw = members.get(spec.tensor.name)
        if raw is None and spec.tensor.optional:
            arrays.append(OMITTED)
            continue
        if raw is None:
            raise InvalidRequestError(f"input {spec.tensor.name!r} is missing")
        array = _row(bytes(raw), spec.tensor, index, signature)
        signature.check_values(index, array)
        arrays.append(array)
    return GenerateRequest(request_id, tuple(arrays), parameters, names)


def encode_generate(
    model: str, version: str, request: GenerateRequest, arrays: Sequence[Array], has_rows: bool
) -> bytes:
    """Encode the response to one row, or one chunk of it, as JSON."""
    document: dict[str, Any] = {} if request.id is None else {"id": request.id}
    document |= {"model_name": model, "model_version": version}
    for name, array in zip(request.names, arrays, strict=True):
        values: Any = named(to_json(array)) if array.dtype.kind in "fV" else to_json(array)
        shape = array.shape[1:] if has_rows else array.shape
        document[name] = values[0] if len(values) == 1 else _nested(values, shape)
    return _encoder.encode(document)


def can_join(outputs: Sequence[TensorSpec]) -> bool:
    """Return whether the chunks of a stream are texts, which make one answer together."""
    return all(spec.datatype == "BYTES" and spec.shape == (-1,) for spec in outputs)


def join_chunks(parts: Sequence[Sequence[Array]], outputs: Sequence[TensorSpec]) -> list[Array]:
    """Concatenate the texts of a stream's chunks into one answer."""
    joined = []
    for i in range(len(outputs)):
        array = np.empty(1, object)
        array[0] = b"".join(part[i].tolist()[0] for part in parts)
        joined.append(array)
    return joined


def _text_input(signature: Signature) -> str | None:
    texts = [spec.tensor.name for spec in signature.inputs if spec.tensor.datatype == "BYTES"]
    return texts[0] if len(texts) == 1 else None


def _row(raw: bytes, spec: TensorSpec, index: int, signature: Signature) -> Array:
    """Decode one JSON value as a tensor: its row, preceded by a dimension of 1 if the model has rows."""
    try:
        inner = np.shape(msgspec.json.decode(raw))
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"input {spec.name!r}: its lists differ in length") from None
    shape = (1, *inner) if signature.has_rows else inner
    if not inner:
        shape = (1,) * len(spec.shape)
    shape = signature.check_header(index, spec.datatype, shape)
    text = raw if inner and not signature.has_rows else b"[" + raw + b"]"
    return from_json(msgspec.Raw(text), spec.datatype, shape, spec.name)


def _nested(values: list[Any], shape: tuple[int, ...]) -> Any:
    for size in reversed(shape[1:]):
        values = [values[i : i + size] for i in range(0, len(values), size)] if size else []
    return values
