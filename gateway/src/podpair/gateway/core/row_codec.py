"""Encodes requests as rows that may share one call to the model, and slices each request's part of the answer.

Invariant: a request is encoded only if the call means to the model what the request alone would have meant; anything
unusual in it (a tensor's own parameters, a sequence, values that don't fit) sends it alone, as its client wrote it.
"""

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import msgspec

from podpair.gateway.core.models import Model
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.shorthand import stand_for_rows
from podpair.gateway.core.tensors import Columns, NotPackable, TensorSpec, fits, flatten, pack, packer, read_elements

# Parameters that are about this one request and nobody else's rows.
_OWN = frozenset({"sequence_id", "sequence_start", "sequence_end", "binary_data_output"})
_MOST = 256  # widths of rows that are remembered

RowSlicer = Callable[[Columns, int, int], bytes]


class RowLayout(NamedTuple):
    """The layout of a request as rows of a call."""

    key: Hashable  # what may share a call has the same
    tails: tuple[tuple[int, ...], ...]  # the shape of a row of each input
    rows: int
    member: bytes  # of the result: `data` or `outputs`
    slice_rows: RowSlicer  # the member's value, of the call's outputs, from a row on, so many rows


class EncodedRows(NamedTuple):
    """A request as rows of a call."""

    layout: RowLayout
    raw: tuple[bytes, ...]  # its rows, for each input of the model in its order
    size: int  # bytes


class RowForm(NamedTuple):
    """How requests of one list of so many numbers, answered by one row, are encoded."""

    model: Model
    layout: RowLayout
    pack: Callable[..., bytes]  # the numbers, given as arguments, into a row's bytes; raises NotPackable
    size: int  # bytes of a row


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: msgspec.Raw


_inputs = msgspec.json.Decoder(list[_Tensor])
_names = msgspec.json.Decoder(dict[str, Any])


_Found = tuple[tuple[tuple[int, ...], ...], int, tuple[bytes, ...]]


class RowEncoder:
    """Encodes the requests to one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._versions = len(model.versions) > 1
        # For rows that are one list of numbers, by their length: the form, and how the numbers become bytes.
        self._known: dict[int, RowForm] = {}

    def form(self, width: int) -> RowForm | None:
        """Return how lists of `width` numbers without parameters are encoded; None if that isn't known, or isn't one row each."""
        found = self._known.get(width)
        if found is None or self._versions or found.layout.rows != 1 or found.layout.slice_rows is not Columns.row:
            return None
        return found

    def encode(self, request: InferenceRequest) -> EncodedRows | None:
        """Encode the request as rows; return None if it goes alone."""
        row = request.row
        try:
            if row is None:
                return self._any(request)
            known = self._known.get(len(row))
            if known is None or self._versions or request.parameters:
                return self._any(request)
            _, layout, to_bytes, size = known
            return EncodedRows(layout, (to_bytes(*row),), size)
        except (NotPackable, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _any(self, request: InferenceRequest) -> EncodedRows | None:
        model = self.model
        if request.parameters and not _OWN.isdisjoint(_names.decode(request.parameters)):
            return None
        single = False
        if request.inputs:
            found = _tensors(request.inputs, model)
        else:
            found, single = _shorthand(request, model)
        if found is None:
            return None
        tails, rows, raw = found
        slice_rows: RowSlicer = Columns.tensors
        if not request.inputs:
            slice_rows = Columns.row if single else Columns.rows
        member = b"outputs" if request.inputs else b"data"
        # Which of several versions answers is chosen by the key.
        who = request.key if self._versions else ""
        layout = RowLayout((model.name, tails, request.parameters, who), tails, rows, member, slice_rows)
        if request.row is not None and not request.parameters and len(self._known) < _MOST:
            pack_row = packer(model.inputs[0].datatype, len(request.row))
            self._known[len(request.row)] = RowForm(model, layout, pack_row, len(raw[0]))
        return EncodedRows(layout, raw, sum(map(len, raw)))


def _shorthand(request: InferenceRequest, model: Model) -> tuple[_Found | None, bool]:
    if len(model.inputs) != 1:
        return None, False
    spec = model.inputs[0]
    rank = len(spec.shape)
    if request.row is not None:
        values: list[Any] = request.row
        depth = 1
        shape: tuple[int, ...] = (len(values),)
    else:
        text = request.data
        depth = _depth(text)
        if depth not in (0, 1, rank - 1, rank):
            return None, False
        found = read_elements(text, spec.datatype, depth)
        values, shape = flatten(found, depth) if depth else ([found], ())
    single = depth == rank - 1
    full = (1, *shape) if single else shape
    if stand_for_rows(shape, spec.shape):
        single, full = not shape, (*(shape or (1,)), *spec.shape[1:])
    if not fits(full, spec) or 0 in full:
        return None, False
    return ((full[1:],), full[0], (pack(values, spec.datatype),)), single


def _depth(text: bytes) -> int:
    """Return how deep a JSON text is nested at its beginning."""
    depth = 0
    for byte in text[:64]:
        if byte == 0x5B:  # [
            depth += 1
        elif byte not in b" \t\r\n":
            break
    return depth


def _tensors(text: bytes, model: Model) -> _Found | None:
    found = _inputs.decode(text)
    given = {tensor.name: tensor for tensor in found}
    if len(given) != len(found) or given.keys() != {spec.name for spec in model.inputs}:
        return None
    tails, raw = [], []
    counts = set()
    for spec in model.inputs:
        tensor = given[spec.name]
        if tensor.datatype != spec.datatype or not fits(tensor.shape, spec):
            return None
        raw.append(_elements(tensor, spec))
        tails.append(tensor.shape[1:])
        counts.add(tensor.shape[0])
    rows = counts.pop()
    if counts or rows < 1:
        return None
    return tuple(tails), rows, tuple(raw)


def _elements(tensor: _Tensor, spec: TensorSpec) -> bytes:
    text = bytes(tensor.data)
    depth = _depth(text)
    if depth not in (1, len(spec.shape)):
        raise NotPackable("nested otherwise than its shape says")
    values, shape = flatten(read_elements(text, spec.datatype, depth), depth)
    if len(values) != math.prod(tensor.shape) or (depth > 1 and shape != tensor.shape):
        raise NotPackable("not as many as its shape says")
    return pack(values, spec.datatype)
