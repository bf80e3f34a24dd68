"""What a client sends: what is read, and what each mistake is told."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.protocol import (
    Cancel,
    Infer,
    InvalidFrame,
    Refresh,
    decode,
    decode_infer,
    decode_plain_row,
    decode_row,
)

GOOD = {"type": "infer", "id": "r", "model": "m", "data": [1]}


def infer(**changed: Any) -> str:
    return json.dumps({k: v for k, v in {**GOOD, **changed}.items() if v is not ...})


def test_an_infer_with_everything() -> None:
    frame = infer(parameters={"p": 1}, route="queue", deadline_ms=5, on_disconnect="cancel", retry=True)
    found = decode(frame)
    assert isinstance(found, Infer)
    assert (found.id, found.model, found.route, found.deadline_ms) == ("r", "m", "queue", 5)
    assert (found.on_disconnect, found.retry, bytes(found.parameters)) == ("cancel", True, b'{"p": 1}')


def test_what_is_left_out() -> None:
    found = decode(infer())
    assert isinstance(found, Infer)
    assert (found.route, found.deadline_ms, found.on_disconnect, found.retry) == ("auto", None, "detach", False)
    assert bytes(found.data) == b"[1]"
    assert bytes(found.inputs) == b""


def test_the_other_messages() -> None:
    assert decode('{"type":"cancel","id":"r"}') == Cancel("r")
    assert decode('{"type":"refresh","token":"t"}') == Refresh("t")


# An error that bears the id of an open request would look like its end: only what wants to be an infer names one.
@pytest.mark.parametrize(
    ("frame", "said", "request_id"),
    [
        ("", "not JSON", None),
        ("{", "not JSON", None),
        ("hello", "not JSON", None),
        (b"\x00\xff\x10", "not JSON", None),
        (b'{"type":"cancel","id":"\xff"}', "not UTF-8", None),
        ('{"type":"infer","id":"r","model":"m","data":[NaN]}', "not JSON", None),
        ('{"type":"infer","id":"r","model":"m","data":[1]} x', "not JSON", None),
        ('{"type":"infer","id":"r","model":"m","data":' + "[" * 10_000 + "]" * 10_000 + "}", "nested too deep", None),
        ("[" * 100_000, "Expected `object`", None),
        ('{"type":"infer","id":"\\ud800","model":"m","data":[1]}', "not JSON", None),
        ("[]", "Expected `object`", None),
        ("null", "Expected `object`", None),
        ('"infer"', "Expected `object`", None),
        ("{}", "missing required field `type`", None),
        ('{"type":"teach","id":"r"}', "'teach'", None),
        ('{"type":5,"id":"r"}', "Expected `str`", None),
        ('{"type":"cancel"}', "missing required field `id`", None),
        ('{"type":"cancel","id":"r","why":"so"}', "unknown field `why`", None),
        ('{"type":"refresh","token":5}', "Expected `str`", None),
        (infer(id=...), "missing required field `id`", None),
        (infer(id=""), "length >= 1", None),
        (infer(id="x" * 129), "length <= 128", None),
        (infer(id=7), "Expected `str`", None),
        (infer(model=...), "missing required field `model`", "r"),
        (infer(model=""), "length >= 1", "r"),
        (infer(model="a/b"), "matching regex", "r"),
        (infer(model="m\n"), "matching regex", "r"),
        (infer(model="m" * 257), "length <= 256", "r"),
        (infer(inputs=[]), "exactly one", "r"),
        (infer(data=...), "exactly one", "r"),
        (infer(data=..., inputs={"name": "x"}), "list of V2 tensors", "r"),
        (infer(data=..., inputs=None), "list of V2 tensors", "r"),
        (infer(parameters=[]), "must be an object", "r"),
        (infer(route="fast"), "'fast'", "r"),
        (infer(deadline_ms=0), ">= 1", "r"),
        (infer(deadline_ms=-5), ">= 1", "r"),
        (infer(deadline_ms=1.5), "Expected `int | null`", "r"),
        (infer(deadline_ms=86_400_001), "<= 86400000", "r"),
        (infer(on_disconnect="stay"), "'stay'", "r"),
        (infer(retry="yes"), "Expected `bool`", "r"),
        (infer(extra=1), "unknown field `extra`", "r"),
    ],
)  # fmt: skip
def test_each_mistake_is_told(frame: str | bytes, said: str, request_id: str | None) -> None:
    with pytest.raises(InvalidFrame) as refused:
        decode(frame)
    assert said in refused.value.message
    assert refused.value.id == request_id


@pytest.mark.parametrize("frame", [infer(data=[1], id="x" * 128), infer(data=None), infer(data="text"), infer(data=0)])
def test_what_may_look_strange_and_is_allowed(frame: str) -> None:
    assert isinstance(decode(frame), Infer)


def test_a_message_is_quoted_only_so_far() -> None:
    with pytest.raises(InvalidFrame) as refused:
        decode(json.dumps({"type": "x" * 100_000}))
    assert len(refused.value.message) <= 300


def test_over_http_the_type_may_be_left_out() -> None:
    assert decode_infer(infer(type=...).encode()) == decode_infer(infer().encode()) == decode(infer())


@pytest.mark.parametrize(
    ("body", "request_id"),
    [(b"", None), (b'{"type":"cancel","id":"r"}', None), (b'{"id":"r","model":"m"}', "r"), (b'{"id":"r"}', "r")],
)
def test_over_http_mistakes_are_the_same(body: bytes, request_id: str | None) -> None:
    with pytest.raises(InvalidFrame) as refused:
        decode_infer(body)
    assert refused.value.id == request_id


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).filter(lambda t: t.isprintable())))
def test_noise_is_refused_and_nothing_else_happens(frame: str | bytes) -> None:
    with pytest.raises(InvalidFrame):
        decode(frame)


@pytest.mark.parametrize(
    "more",
    [
        {"route": "queue"}, {"deadline_ms": 5}, {"on_disconnect": "cancel"}, {"retry": True}, {"traceparent": "00-x"},
        {"parameters": {}}, {"stream": True}, {"seen": 0}, {"inputs": []}, {"data": [[1]]}, {"data": ["1"]}, {"id": ""},
        {"id": "x" * 129}, {"type": "cancel"}, {"model": ...}, {"other": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_asks_for_more_is_no_plain_row(more: dict[str, Any]) -> None:
    frame = infer(**more)
    with pytest.raises(msgspec.DecodeError):
        decode_plain_row(frame)
    row = decode_row(frame, {"m"})
    assert row is None or not row.plain


@pytest.mark.parametrize("more", [{}, {"route": "auto"}, {"route": "direct"}])
def test_a_plain_row(more: dict[str, Any]) -> None:
    found, row = decode_plain_row(infer(**more)), decode_row(infer(**more), {"m"})
    assert row is not None
    assert row.plain
    assert (found.id, found.model, found.data, found.route) == (row.id, row.model, row.data, row.route)
