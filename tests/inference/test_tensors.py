"""Tensors survive both encodings, and what isn't a tensor is refused."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from podpair.inference.core import bfloat16
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.tensors import (
    DATATYPES,
    as_text_or_bytes,
    datatype_of,
    from_json,
    from_numbers,
    from_raw,
    to_json,
    to_raw,
)

NUMBERS = sorted(set(DATATYPES) - {"BYTES"})
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5)


@st.composite
def number_tensors(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    name = draw(st.sampled_from(NUMBERS))
    finite = {"allow_nan": False, "allow_infinity": False}
    if name == "BF16":
        limits = {"min_value": -(2.0**126), "max_value": 2.0**126}
        return name, bfloat16.from_float(draw(hnp.arrays(np.float32, SHAPES, elements=finite | limits)))
    elements = finite if name.startswith("FP") else None
    return name, draw(hnp.arrays(DATATYPES[name], SHAPES, elements=elements))


@given(number_tensors(), st.booleans())
def test_numbers_survive_json_flat_and_nested(tensor: tuple[str, np.ndarray], nested: bool) -> None:
    name, array = tensor
    values = bfloat16.to_float(array) if name == "BF16" else array
    text = msgspec.json.encode(values.tolist() if nested else to_json(array))
    np.testing.assert_array_equal(from_json(msgspec.Raw(text), name, array.shape, "x"), array)


@given(number_tensors(), st.integers(0, 7))
def test_numbers_survive_raw_bytes_at_any_offset(tensor: tuple[str, np.ndarray], offset: int) -> None:
    name, array = tensor
    body = memoryview(bytes(offset) + bytes(to_raw(array)))
    back = from_raw(body[offset:], name, array.shape, "x")
    np.testing.assert_array_equal(back, array)
    assert back.flags.aligned
    assert datatype_of(back.dtype) == name


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_bytes_survive_raw(items: list[bytes]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    assert from_raw(memoryview(to_raw(array)), "BYTES", (len(items),), "x").tolist() == items


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20))
def test_text_survives_json_and_is_bytes_inside(items: list[str]) -> None:
    text = msgspec.json.encode(items)
    array = from_json(msgspec.Raw(text), "BYTES", (len(items),), "x")
    assert array.tolist() == [item.encode() for item in items]
    assert to_json(array) == items


@given(st.lists(st.text("aé漢", min_size=1, max_size=6), min_size=1, max_size=20))
def test_labels_are_encoded_as_any_other_bytes(labels: list[str]) -> None:
    encoded = [label.encode() for label in labels]
    array = np.array(encoded)
    assert array.dtype.kind == "S"
    assert bytes(to_raw(array)) == b"".join(struct.pack("<I", len(item)) + item for item in encoded)
    assert to_json(array) == labels
    assert datatype_of(array.dtype) == "BYTES"


def test_an_aligned_raw_tensor_is_a_view_of_the_body() -> None:
    body = np.arange(8, dtype="<f4").tobytes()
    assert np.shares_memory(from_raw(memoryview(body), "FP32", (2, 4), "x"), np.frombuffer(body, "u1"))


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "complaint"),
    [
        ("[1, 2, 3]", "FP32", (2, 2), "holds 3 elements"),
        ("[[1, 2], [3]]", "FP32", (2, 2), "shape"),
        ("[[1, 2, 3, 4]]", "FP32", (2, 2), "nested as"),
        ("[[[1], [2]]]", "FP32", (1, 2), "not a list of FP32"),
        ('["1"]', "FP32", (1,), "not a list of FP32"),
        ("[true]", "FP32", (1,), "not a list of FP32"),
        ("[null]", "INT64", (1,), "not a list of INT64"),
        ("1", "FP32", (1,), "not a list of FP32"),
        ('{"0": 1}', "FP32", (1,), "not a list of FP32"),
        ("[1.5]", "INT32", (1,), "not a list of INT32"),
        ("[300]", "UINT8", (1,), "no UINT8 tensor"),
        ("[-1]", "UINT64", (1,), "no UINT64 tensor"),
        ("[9223372036854775808]", "INT64", (1,), "no INT64 tensor"),
        ("[1]", "BOOL", (1,), "not a list of BOOL"),
        ("[1]", "BYTES", (1,), "not a list of BYTES"),
        ('["a", "b"]', "BYTES", (3,), "2 elements"),
    ],
)
def test_json_that_is_no_such_tensor(data: str, datatype: str, shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        from_json(msgspec.Raw(data.encode()), datatype, shape, "x")


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "complaint"),
    [
        (b"\0" * 7, "FP32", (2,), "7 bytes of binary data"),
        (b"\2", "BOOL", (1,), "0 or 1"),
        (b"", "BYTES", (1,), "not 1 BYTES"),
        (b"\5\0\0\0abc", "BYTES", (1,), "not 1 BYTES"),
        (b"\1\0\0\0ab", "BYTES", (1,), "not 1 BYTES"),
        (b"\xff\xff\xff\xff", "BYTES", (1,), "not 1 BYTES"),
    ],
)
def test_bytes_that_are_no_such_tensor(raw: bytes, datatype: str, shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        from_raw(memoryview(raw), datatype, shape, "x")


def test_bytes_that_are_not_text_can_only_be_had_as_binary_data() -> None:
    array = np.array([b"\xff\xfe"], object)
    with pytest.raises(InvalidRequestError, match="binary_data"):
        to_json(array)
    assert bytes(to_raw(array)) == b"\2\0\0\0\xff\xfe"


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", [0.0, -1.5, 3.4e38]),
        ("FP16", [1.0, 65504.0]),
        ("FP64", [1e300]),
        ("INT8", [-128, 127]),
        ("UINT64", [2**64 - 1]),
        ("INT64", [-(2**63)]),
        ("FP32", [float(i) for i in range(5000)]),
        ("INT32", list(range(5000))),
    ],
)
def test_flat_numbers_become_what_numpy_makes_of_them(datatype: str, values: list[float]) -> None:
    array = from_numbers(values, datatype, (1, len(values)), "x")
    np.testing.assert_array_equal(array, np.array([values], DATATYPES[datatype]))
    assert array.dtype == DATATYPES[datatype]


@pytest.mark.parametrize("count", [1, 3000])
@pytest.mark.parametrize(
    ("datatype", "value"),
    [("FP32", 1e39), ("FP32", -1e39), ("FP16", 1e5), ("INT8", 128), ("UINT8", -1), ("INT64", 2**63)],
)
def test_numbers_too_large_for_their_datatype_are_never_made_into_others(
    datatype: str, value: float, count: int
) -> None:
    with pytest.raises((struct.error, OverflowError)):
        from_numbers([value] * count, datatype, (count,), "x")


def test_bytes_that_are_no_text_have_a_nul_behind_each() -> None:
    items = np.array([[b"\xff\xfe"], [b"abc"]], object)
    found = as_text_or_bytes(items, "x")
    assert (found.dtype, found.tolist()) == (np.dtype("S4"), items.tolist())
    assert as_text_or_bytes(items[1:], "x").tolist() == [["abc"]]
    with pytest.raises(InvalidRequestError, match="neither UTF-8 nor free of NUL"):
        as_text_or_bytes(np.array([b"\xff\0"], object), "x")
