"""`data` in, `data` out: what a row becomes, what comes back, and what can't be a row of the model."""

import json
from typing import Any

import pytest

from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.shorthand import InputSpec, collapse, expand

ROW2 = InputSpec("x", "FP32", (-1, 2))
IMAGE = InputSpec("image", "UINT8", (-1, 2, 2))
SCALAR = InputSpec("n", "INT64", (-1,))
TEXT = InputSpec("text", "BYTES", (-1, 1))
LONG = InputSpec("ids", "INT64", (-1, -1))


@pytest.mark.parametrize(
    ("data", "spec", "shape", "flat", "single"),
    [
        ([0, 0.5], ROW2, [1, 2], [0, 0.5], True),
        ([[0, 1], [2, 3]], ROW2, [2, 2], [[0, 1], [2, 3]], False),
        ([[0, 1]], ROW2, [1, 2], [[0, 1]], False),
        (7, SCALAR, [1], [7], True),
        ([7, 8, 9], SCALAR, [3], [7, 8, 9], False),
        (["hello"], TEXT, [1, 1], ["hello"], True),
        ([["a"], ["b"]], TEXT, [2, 1], [["a"], ["b"]], False),
        ([[1, 2], [3, 4]], IMAGE, [1, 2, 2], [[1, 2], [3, 4]], True),
        ([[[1, 2], [3, 4]]], IMAGE, [1, 2, 2], [[[1, 2], [3, 4]]], False),
        ([5, 6, 7], LONG, [1, 3], [5, 6, 7], True),
        ([True, False], ROW2, [1, 2], [True, False], True),
        ([12345678901234567890123, 1], ROW2, [1, 2], [12345678901234567890123, 1], True),
    ],
)
def test_expand(data: Any, spec: InputSpec, shape: list[int], flat: Any, single: bool) -> None:
    inputs, one = expand(json.dumps(data).encode(), spec)
    assert json.loads(inputs) == [{"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": flat}]
    assert one is single


@pytest.mark.parametrize(
    ("data", "spec", "said"),
    [
        (b"[1]", ROW2, "data has shape [1], but a row of input 'x' is 2: send a row or a list of rows"),
        (b"[1,2,3]", ROW2, "shape [3]"),
        (b"[[1,2],[3]]", ROW2, "ragged at depth 1"),
        (b"[[1,2],3]", ROW2, "ragged"),
        (b"[3,[1,2]]", ROW2, "ragged at depth 1: numbers beside lists"),
        (b"[]", ROW2, "empty"),
        (b"[[],[]]", ROW2, "empty"),
        (b"5", ROW2, "shape []"),
        (b"null", ROW2, "shape []"),
        (b'"text"', ROW2, "shape []"),
        (b'{"a":1}', ROW2, "numbers, texts or booleans"),
        (b'[{"a":1},2]', ROW2, "numbers, texts or booleans"),
        (b"[[[1,2]]]", ROW2, "shape [1, 1, 2]"),
        (b"[[1,2],[3,4]]", SCALAR, "a row of input 'n' is one value"),
        (b"[[1,2,3]]", IMAGE, "a row of input 'image' is 2x2"),
        (b"[[1,1e999]]", ROW2, "out of range"),
        (b"[" * 10_000 + b"]" * 10_000, ROW2, "nested too deep"),
    ],
)
def test_what_is_no_row_is_told(data: bytes, spec: InputSpec, said: str) -> None:
    with pytest.raises(Fault) as refused:
        expand(data, spec)
    assert refused.value.code is Code.INVALID
    assert said in refused.value.message


def tensor(name: str, shape: list[int], data: list[Any], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


@pytest.mark.parametrize(
    ("outputs", "single", "named"),
    [
        ([tensor("p", [1, 3], [1, 2, 3]), tensor("label", [1], ["a"], "BYTES")], True, {"p": [1, 2, 3], "label": "a"}),
        ([tensor("p", [2, 2], [1, 2, 3, 4])], False, {"p": [[1, 2], [3, 4]]}),
        ([tensor("p", [1, 2], [1, 2])], False, {"p": [[1, 2]]}),
        ([tensor("p", [2, 2], [[1, 2], [3, 4]])], False, {"p": [[1, 2], [3, 4]]}),  # nested is V2 too
        ([tensor("p", [1, 2, 2], [1, 2, 3, 4])], True, {"p": [[1, 2], [3, 4]]}),
        ([tensor("p", [3], [1, 2, 3])], True, {"p": [1, 2, 3]}),  # no batch dimension to drop
        ([tensor("p", [1, 0], [])], True, {"p": []}),
        ([tensor("p", [2, 0], [])], False, {"p": [[], []]}),
        ([tensor("p", [1], [None])], True, {"p": None}),
        ([], True, {}),
    ],
)
def test_collapse(outputs: list[dict[str, Any]], single: bool, named: dict[str, Any]) -> None:
    assert json.loads(collapse(json.dumps(outputs).encode(), single=single)) == named


@pytest.mark.parametrize("answer", [b"{}", b'[{"name":"p","datatype":"FP32","shape":[1]}]', b'[{"name":5}]'])
def test_an_answer_that_is_not_v2_is_the_models_fault(answer: bytes) -> None:
    with pytest.raises(Fault) as refused:
        collapse(answer, single=True)
    assert refused.value.code is Code.UPSTREAM
