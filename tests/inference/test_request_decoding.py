"""Requests read in the quick ways are what they are in the slow one, and what is remembered of one is never another's."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import TensorSpec
from podpair.inference.core.v2 import RequestDecoder

INPUTS = (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (-1, 1)))


def decoder(*inputs: TensorSpec) -> RequestDecoder:
    given = inputs or INPUTS
    return RequestDecoder(Signature(ModelConfig(), given, (TensorSpec("y", "FP32", (-1,)),), "test"))


def mixed(a: Any, b: Any, order: str = "ab", **more: Any) -> tuple[bytes, int]:
    tensors = {"a": np.array(a, "<f4").reshape(-1, 2), "b": np.array(b, "<f4").reshape(-1, 1)}
    described = [
        {
            "name": n,
            "datatype": "FP32",
            "shape": list(tensors[n].shape),
            "parameters": {"binary_data_size": tensors[n].nbytes},
        }
        for n in order
    ]
    header = json.dumps({"inputs": described, **more}).encode()
    return header + b"".join(tensors[n].tobytes() for n in order), len(header)


def test_the_same_json_before_other_tensors_is_another_request() -> None:
    decode = decoder()
    for order in ("ab", "ba", "ab", "ba"):
        for value in (1.0, 2.0):
            found = decode(*mixed([value, 3], [value], order, id="i", parameters={"k": 1}))
            np.testing.assert_array_equal(found.arrays[0], [[value, 3]])
            np.testing.assert_array_equal(found.arrays[1], [[value]])
            assert (found.id, found.parameters) == ("i", {"k": 1})
            # The model may do with them what it likes.
            found.parameters["k"] = 2


def test_what_was_right_once_is_checked_again() -> None:
    decode = decoder()
    body, length = mixed([1, 2], [3])
    decode(body, length)
    with pytest.raises(InvalidRequestError, match="binary_data_size 4, 0 bytes are left"):
        decode(body[:-4], length)
    with pytest.raises(InvalidRequestError, match="4 bytes of binary data belong to no input"):
        decode(body + b"\0" * 4, length)
    with pytest.raises(InvalidRequestError, match="NaN or infinity"):
        decode(*mixed([1, np.nan], [3]))
    assert decode(body, length).arrays[1][0, 0] == 3


def test_many_different_requests_are_not_remembered_for_ever() -> None:
    decode = decoder()
    for i in range(2000):
        assert decode(*mixed([i, i], [i], id=str(i))).id == str(i)
    assert len(decode._plans) < 1000


@given(
    rows=st.integers(1, 4),
    nested=st.booleans(),
    binary=st.booleans(),
    name=st.sampled_from([None, "r-1"]),
    outputs=st.sampled_from([None, [{"name": "y"}], [{"name": "y", "parameters": {"binary_data": True}}]]),
    want=st.sampled_from([None, True, False]),
)
def test_every_way_to_write_a_request_means_the_same(
    rows: int, nested: bool, binary: bool, name: str | None, outputs: Any, want: bool | None
) -> None:
    a, b = np.arange(rows * 2, dtype="<f4").reshape(rows, 2), np.ones((rows, 1), "<f4")
    more: dict[str, Any] = {} if name is None else {"id": name}
    if outputs is not None:
        more["outputs"] = outputs
    if want is not None:
        more["parameters"] = {"binary_data_output": want}
    decode = decoder()
    for _ in range(2):
        if binary:
            found = decode(*mixed(a, b, **more))
        else:
            data = [x.tolist() if nested else x.ravel().tolist() for x in (a, b)]
            described = [
                {"name": n, "datatype": "FP32", "shape": x.shape, "data": d}
                for n, x, d in zip("ab", (a, b), data, strict=True)
            ]
            found = decode(json.dumps({"inputs": described, **more}).encode(), None)
        np.testing.assert_array_equal(found.arrays[0], a)
        np.testing.assert_array_equal(found.arrays[1], b)
        raw = bool(want) if outputs is None else bool(outputs[0].get("parameters", {}).get("binary_data", want))
        assert (found.id, list(found.wanted)) == (name, [(0, raw)])


@pytest.mark.parametrize("datatype", ["INT64", "FP32", "UINT8", "BOOL"])
def test_the_elements_must_be_of_the_datatype(datatype: str) -> None:
    decode = decoder(TensorSpec("a", datatype, (-1, 2)))
    good: list[Any] = [True, False] if datatype == "BOOL" else [1, 2]
    for data, fine in (
        (good, True),
        (["1", "2"], False),
        ([None, 1], False),
        ([1.5, 2], datatype == "FP32"),
        ([1], False),
    ):
        body = json.dumps({"inputs": [{"name": "a", "datatype": datatype, "shape": [1, 2], "data": data}]}).encode()
        if fine:
            np.testing.assert_array_equal(decode(body, None).arrays[0], [data])
        else:
            with pytest.raises(InvalidRequestError, match="input 'a'"):
                decode(body, None)
