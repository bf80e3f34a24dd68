"""Values of calls between models: what becomes of numbers and texts on their way into the called model and out of it."""

from typing import Any

import numpy as np
import pytest

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.model_call import ModelAnswer, ModelCall, answered_values, given_arrays, request_arrays
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.request_context import NO_REQUEST
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import TensorSpec

OUT = TensorSpec("y", "FP32", (-1,))


def into(inputs: Any, *specs: TensorSpec) -> list[Any]:
    """What a model with these inputs gets."""
    names, arrays = given_arrays(inputs)
    call = ModelCall("m", None, names, arrays, {}, NO_REQUEST)
    return list(request_arrays(call, Signature(ModelConfig(), list(specs), [OUT], "m")))


TAKEN: list[tuple[Any, str, Any]] = [
    ([1, 2], "FP32", np.array([1, 2], "<f4")),
    ([1.5, 2], "FP16", np.array([1.5, 2], "<f2")),
    ([0, 255], "UINT8", np.array([0, 255], "u1")),
    ([-128, 127], "INT8", np.array([-128, 127], "i1")),
    (np.array([2**63], np.uint64), "UINT64", np.array([2**63], "<u8")),
    ([True, False], "INT32", np.array([1, 0], "<i4")),
    ([True, False], "BOOL", np.array([True, False])),
    ((1, 2), "INT64", np.array([1, 2])),
    (np.array([1, 2], ">f4"), "FP32", np.array([1, 2], "<f4")),
    ("text", "BYTES", np.array([b"text"], object)),
    (["ä", b"\xff"], "BYTES", np.array(["ä".encode(), b"\xff"], object)),
    (np.array(["a", "b"]), "BYTES", np.array([b"a", b"b"], object)),
]


@pytest.mark.parametrize(("given", "datatype", "taken"), TAKEN, ids=str)
def test_values_become_the_model_s_datatype(given: Any, datatype: str, taken: Any) -> None:
    (found,) = into(given, TensorSpec("x", datatype, (-1,)))
    assert (found.dtype, found.tolist()) == (taken.dtype, taken.tolist())


def test_bf16_is_rounded_from_floats() -> None:
    (found,) = into([1.0, -2.5], TensorSpec("x", "BF16", (-1,)))
    assert answered_values(ModelAnswer(["y"], [found]), text=True)["y"].tolist() == [1.0, -2.5]


REFUSED: list[tuple[Any, str, str]] = [
    ([1.5], "INT64", "input 'x': datatype FP64, the model takes INT64"),
    ([300], "UINT8", "input 'x': a number is too large for UINT8"),
    ([-1], "UINT8", "input 'x': a number is too large for UINT8"),
    (np.array([2**63], np.uint64), "INT64", "input 'x': a number is too large for INT64"),
    ([1e300], "FP32", "input 'x': NaN or infinity, or a number too large for FP32"),
    ([float("nan")], "FP64", "input 'x': NaN or infinity, or a number too large for FP64"),
    (["a"], "FP32", "input 'x': datatype BYTES, the model takes FP32"),
    ([1], "BYTES", "input 'x': datatype INT64, the model takes BYTES"),
    ([[1], [1, 2]], "FP32", "a list that is no tensor of numbers, text or bytes"),
    ([{}], "FP32", "a list that is no tensor of numbers, text or bytes"),
    (["a", 1], "BYTES", "a list that is no tensor of numbers, text or bytes"),
    ([2**70], "INT64", "a list that is no tensor of numbers, text or bytes"),
    ([[1.0]], "FP32", "input 'x': shape [1, 1], the model takes [-1]"),
    ({"z": [1.0]}, "FP32", "no input 'z'; the model takes x"),
    ({}, "FP32", "input 'x' is missing"),
]


@pytest.mark.parametrize(("given", "datatype", "why"), REFUSED, ids=str)
def test_what_would_be_another_value_is_refused(given: Any, datatype: str, why: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        into(given, TensorSpec("x", datatype, (-1,)))
    assert why in str(refused.value)


def test_inputs_of_several_need_their_names() -> None:
    specs = TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "BYTES", (-1,))
    assert [array.tolist() for array in into({"b": ["t"], "a": [1]}, *specs)] == [[1], [b"t"]]
    with pytest.raises(InvalidRequestError, match="the inputs need names; the model takes a, b"):
        into([1], *specs)


def test_texts_are_lists_and_of_more_dimensions_arrays() -> None:
    flat, square = np.array([b"a"], object), np.array([[b"a", b"b"]], object)
    found = answered_values(ModelAnswer(["flat", "square", "s"], [flat, square, np.array([b"x"])]), text=True)
    assert (found["flat"], found["square"].tolist(), found["s"]) == (["a"], [["a", "b"]], ["x"])
    assert answered_values(ModelAnswer(["flat"], [flat]), text=False) == {"flat": [b"a"]}
