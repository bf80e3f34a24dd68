"""The value of a request record, which any producer may have written: it is a question, or told to be none."""

import json

import pytest

from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest, decode_request, encode_request, shorthand_of

TENSOR = b'[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]'


@pytest.mark.parametrize(
    "wanted",
    [
        InferenceRequest("r", "m", row=[1, 2.5]),
        InferenceRequest("r", "m", inputs=TENSOR, parameters=b'{"a":1}', deadline=7.0),
        InferenceRequest("r", "m", data=b'{"messages":[]}', stream=True),
    ],
    ids=["row", "tensors", "object"],
)
def test_what_is_written_is_read(wanted: InferenceRequest) -> None:
    assert decode_request(encode_request(wanted), "r", "m", wanted.deadline) == wanted


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "not JSON"),
        (b'{"inputs":[],"parameters":{"\x80":null}}', "not UTF-8"),
        (b"{}", "exactly one"),
        (b'{"data":[1],"inputs":[]}', "exactly one"),
        (b'{"inputs":null}', "`inputs` must be a list"),
        (b'{"inputs":{}}', "`inputs` must be a list"),
        (b'{"inputs":[],"parameters":null}', "`parameters` must be an object"),
        (b'{"data":[1],"parameters": [1]}', "`parameters` must be an object"),
    ],
)
def test_what_is_no_question(body: bytes, words: str) -> None:
    with pytest.raises(Fault, match=words) as told:
        decode_request(body, "r", "m", None)
    assert told.value.code is Code.INVALID


@pytest.mark.parametrize("body", [b'{"data":[1,2.5]}', b'{"data":[1],"data":[2]}', b'{"data":[1], "data":[2]}'])
def test_numbers_that_are_released_are_the_same_numbers(body: bytes) -> None:
    request = decode_request(body, "i", "m", None)
    before = json.loads(shorthand_of(request))
    request.release_row(body)
    assert json.loads(shorthand_of(request)) == before
