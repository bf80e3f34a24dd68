"""`data` in, `data` out: what a row becomes, what comes back, and what can't be a row of the model."""

import json
from typing import Any

import pytest

from podpair.gateway.core.models import model_of
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import decode_request
from podpair.gateway.core.row_codec import RowEncoder
from podpair.gateway.core.shorthand import InputSpec, collapse, expand

ROW2 = InputSpec("x", "FP32", (-1, 2))
IMAGE = InputSpec("image", "UINT8", (-1, 2, 2))
SCALAR = InputSpec("n", "INT64", (-1,))
TEXT = InputSpec("text", "BYTES", (-1, 1))
COLUMN = InputSpec("n", "FP32", (-1, 1))
DEEP_TEXT = InputSpec("text", "BYTES", (-1, 1, 1))
TWO_TEXTS = InputSpec("text", "BYTES", (2, 1))
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
        ([["a"]], TEXT, [1, 1], [["a"]], False),
        ("hello", TEXT, [1, 1], ["hello"], True),
        ("", TEXT, [1, 1], [""], True),
        (["a", "b", "c"], TEXT, [3, 1], ["a", "b", "c"], False),
        (0.5, COLUMN, [1, 1], [0.5], True),
        ([0.5, 1], COLUMN, [2, 1], [0.5, 1], False),
        ("hello", DEEP_TEXT, [1, 1, 1], ["hello"], True),
        (["a", "b"], DEEP_TEXT, [2, 1, 1], ["a", "b"], False),
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
        (b'"text"', LONG, "shape []"),
        (b"null", TEXT, "shape []"),
        (b'"text"', TWO_TEXTS, "shape []"),
        (b'["a","b","c"]', TWO_TEXTS, "shape [3]"),
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


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_bare_values_share_calls_like_rows(datatype: str) -> None:
    values = ["a", "b"] if datatype == "BYTES" else [0.5, 1.5]
    tensors = [{"name": "n", "datatype": datatype, "shape": [-1, 1]}]
    encoder = RowEncoder(model_of("m", json.dumps({"inputs": tensors, "outputs": tensors}).encode(), None))

    def encoded(data: Any) -> tuple[Any, ...]:
        found = encoder.encode(decode_request(json.dumps({"data": data}).encode(), "r", "m", None))
        assert found is not None
        return found.layout.key, found.layout.rows, found.layout.slice_rows, found.raw

    assert encoded(values[0]) == encoded(values[:1])
    assert encoded(values) == encoded([[value] for value in values])
    assert encoded(values[0])[0] == encoded(values)[0]


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
