"""NaN and infinity in JSON: answered as names, which are JSON; taken as names, as bare tokens, and null as NaN."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from inference.row_models import LOGARITHM, logarithm, save
from podpair.common.v2.non_finite import quoted
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.generate import decode_generate, encode_generate
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import DATATYPES, Array, TensorSpec
from podpair.inference.core.v2 import InferRequest, RequestDecoder, encode_response

FORMS = [
    b'["NaN", "Infinity", "-Infinity", 1.5]',
    b"[NaN, Infinity, -Infinity, 1.5]",
    b'[["NaN", Infinity], [-Infinity, 1.5]]',
]
VALUES = np.array([[np.nan, np.inf], [-np.inf, 1.5]])


def signature(datatype: str, allow_nan: bool = True) -> Signature:
    declared = {"name": "x", "datatype": datatype, "shape": [-1, 2], "allow_nan": allow_nan}
    spec = TensorSpec("x", datatype, (-1, 2))
    return Signature(ModelConfig.model_validate({"inputs": [declared]}), [spec], [spec], "test")


def request(data: bytes, datatype: str = "FP32") -> bytes:
    return b'{"id": "NaN \\" Infinity", "inputs": [{"name": "x", "datatype": "%b", "shape": [2, 2], "data": %b}]}' % (
        datatype.encode(),
        data,
    )


@pytest.mark.parametrize("data", FORMS)
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_what_is_not_finite_is_taken(data: bytes, datatype: str) -> None:
    asked = RequestDecoder(signature(datatype))(request(data, datatype), None)
    assert asked.id == 'NaN " Infinity'
    np.testing.assert_array_equal(asked.arrays[0], VALUES.astype(DATATYPES[datatype]))


def test_null_is_nan() -> None:
    """KServe's client sends NaN so, for want of another word, and infinity, too."""
    (found,) = RequestDecoder(signature("FP32"))(request(b"[null, 1, 2.5, null]"), None).arrays
    np.testing.assert_array_equal(found, np.array([[np.nan, 1], [2.5, np.nan]], np.float32))


@pytest.mark.parametrize("data", [*FORMS, b"[1, null, 2, 3]", b"[1, 2, 3, 1e39]"])
def test_it_is_refused_where_the_model_does_not_take_it(data: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="NaN or infinity"):
        RequestDecoder(signature("FP32", allow_nan=False))(request(data), None)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT64", b"[NaN, 1, 2, 3]"),
        ("INT64", b'["NaN", 1, 2, 3]'),
        ("INT64", b"[null, 1, 2, 3]"),
        ("BOOL", b'[true, "Infinity", true, true]'),
        ("FP32", b'["nan", 1, 2, 3]'),
        ("FP32", b'["1.5", 1, 2, 3]'),
        ("FP32", b"[true, 1, 2, 3]"),
        ("FP32", b"[NaN1, 1, 2, 3]"),
        ("FP32", b"[+Infinity, 1, 2, 3]"),
    ],
)
def test_nothing_else_becomes_a_number(datatype: str, data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        RequestDecoder(signature(datatype))(request(data, datatype), None)


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        (b'{"NaN": [NaN]}', b'{"NaN": ["NaN"]}'),
        (b'["a\\"NaN", -Infinity]', b'["a\\"NaN", "-Infinity"]'),
        (b'["ends NaN', b'["ends NaN'),
        (b'["\\', None),
        (b"[1.5]", None),
    ],
)
def test_tokens_within_texts_stay(text: bytes, becomes: bytes | None) -> None:
    assert quoted(text) == becomes


def test_long_texts_that_do_not_end_take_no_longer_than_they_are() -> None:
    text = b'["NaN' + b'\\"' * 500_000
    assert quoted(text) == text


def answered(array: Array, datatype: str = "FP32") -> list[Any]:
    asked = InferRequest(None, (), [(0, False)], {})
    (body,), _ = encode_response("m", "1", asked, [TensorSpec("y", datatype, (-1, 2))], [array])
    found = json.loads(bytes(body), parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))
    data: list[Any] = found["outputs"][0]["data"]
    return data


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_not_finite_is_answered_by_name(dtype: Any) -> None:
    assert answered(VALUES.astype(dtype)) == ["NaN", "Infinity", "-Infinity", 1.5]


def test_text_that_says_null_is_answered_as_it_is() -> None:
    assert answered(np.array([[b"null", b"NaN"]], object), "BYTES") == ["null", "NaN"]


def test_generate_has_the_same_names() -> None:
    sut = signature("FP32")
    for row in (b'{"x": ["NaN", "-Infinity"]}', b'{"x": [NaN, -Infinity]}'):
        asked = decode_generate(row, sut)
        np.testing.assert_array_equal(asked.arrays[0], np.array([[np.nan, -np.inf]], np.float32))
    answer = json.loads(encode_generate("m", "1", asked, list(asked.arrays), sut.has_rows))
    assert answer["x"] == ["NaN", "-Infinity"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("log")
    save(repository, logarithm, LOGARITHM)
    with serve(repository) as running:
        yield running


def test_a_logarithm_over_http(server: Any) -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [0, -1, Infinity, 1]}]}'
    assert server.post("/v2/models/logarithm/infer", body).json["outputs"][0]["data"] == [
        "-Infinity",
        "NaN",
        "Infinity",
        0.0,
    ]
