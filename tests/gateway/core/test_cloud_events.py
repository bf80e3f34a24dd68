"""An event says the same in structured mode as in binary mode; what can't be read is refused with the reason."""

import json
from typing import Any

import pytest

from podpair.gateway.core.cloud_events import InvalidCloudEvent, extension, in_binary_mode, in_binary_mode_if_any
from podpair.gateway.core.dead_letters import from_dead_letter, parse_dead_letter, to_dead_letter
from podpair.gateway.core.records import (
    Cancellation,
    InvalidRecord,
    Kind,
    Request,
    answer_again,
    ended_by,
    event_of_record,
    request_of_record,
)
from podpair.gateway.core.wires import RawWire

FORM = ("content-type", b"application/cloudevents+json")
REQUIRED = {"specversion": "1.0", "id": "e", "source": "s", "type": "t"}


def event(**members: Any) -> bytes:
    return json.dumps(REQUIRED | members).encode()


@pytest.mark.parametrize(
    ("members", "value"),
    [
        ({}, None),
        ({"data": {"a": [1, None]}}, b'{"a": [1, null]}'),
        ({"data": None}, b"null"),
        ({"data": "text"}, b'"text"'),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text"),
        ({"data": "text", "datacontenttype": "application/vnd.x+JSON; charset=utf-8"}, b'"text"'),
        ({"data": [1], "datacontenttype": "text/plain"}, b"[1]"),
        ({"data_base64": "AP8="}, b"\x00\xff"),
        ({"data_base64": ""}, b""),
    ],
)
def test_data(members: dict[str, Any], value: bytes | None) -> None:
    assert in_binary_mode(event(**members), [FORM])[0] == value


@pytest.mark.parametrize(
    "form",
    [b"application/cloudevents+json", b"application/cloudevents+json; charset=UTF-8", b"Application/CloudEvents+JSON"],
)
def test_attributes(form: bytes) -> None:
    beside = [("model", b"m"), ("content-type", form), ("ce_id", b"forged"), ("null", None)]
    members = {"time": "2026-01-01T00:00:00Z", "subject": "ann/λ", "count": 7, "yes": True, "none": None, "n_m": "x"}
    _, headers = in_binary_mode(event(**members, datacontenttype="text/plain"), beside)
    assert dict(headers or ()) == {
        "ce_specversion": b"1.0", "ce_id": b"e", "ce_source": b"s", "ce_type": b"t", "ce_time": b"2026-01-01T00:00:00Z",
        "ce_subject": "ann/λ".encode(), "ce_count": b"7", "ce_yes": b"true", "ce_n_m": b"x", "content-type": b"text/plain",
        "model": b"m", "null": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "headers", [None, [], [("content-type", b"application/json")], [("content-type", None)], [("x", b"")]]
)
def test_in_binary_mode_nothing_changes(headers: Any) -> None:
    assert in_binary_mode(b"{", headers) == (b"{", headers)


BAD: list[tuple[bytes | None, bytes, str]] = [
    (None, FORM[1], "not the JSON object"),
    (b"{", FORM[1], "not the JSON object"),
    (b"[]", FORM[1], "not the JSON object"),
    (b"[" * 50_000, FORM[1], "not the JSON object"),
    (event()[:-1] + b',"subject":"\xff"}', FORM[1], "UTF-8"),
    *(
        (json.dumps({k: v for k, v in REQUIRED.items() if k != name}).encode(), FORM[1], f"{name} is missing")
        for name in REQUIRED
    ),
    (event(specversion="0.3"), FORM[1], "'0.3' is not 1.0"),
    (event(subject={}), FORM[1], "subject is neither"),
    (event(extra=[1]), FORM[1], "extra is neither"),
    (event(**{"Bad-Name": "x"}), FORM[1], "'Bad-Name' is no name"),
    (event(data=1, data_base64="YQ=="), FORM[1], "data and data_base64"),
    (event(data_base64="?"), FORM[1], "not base64"),
    (event(data_base64=1), FORM[1], "not base64"),
    (b"[]", b"application/cloudevents-batch+json", "one event a record"),
    (b"", b"application/cloudevents+avro", "one event a record"),
    (b"", b"application/cloudevents", "one event a record"),
]


@pytest.mark.parametrize(("value", "form", "why"), BAD)
def test_what_cant_be_read(value: bytes | None, form: bytes, why: str) -> None:
    headers = [("content-type", form)]
    with pytest.raises(InvalidCloudEvent, match=why):
        in_binary_mode(value, headers)
    assert in_binary_mode_if_any(value, headers) == (value, headers)
    with pytest.raises(InvalidRecord, match=why):
        request_of_record(value, headers)
    told = event_of_record(value, headers, 7, b"e.3.")
    said = json.loads(told.payload)
    assert (told.kind, said["type"], said["position"], "id" in said) == (Kind.UNREADABLE, "error", "e.3.7", False)
    assert why.split("'")[0] in said["message"]


def test_an_event_within_an_event_is_data() -> None:
    value = event(datacontenttype=FORM[1].decode(), data=REQUIRED)
    told = event_of_record(value, [FORM], 7, b"e.3.")
    assert json.loads(told.payload)["data"] == REQUIRED
    assert RawWire().event(value, [FORM], 7).payload == json.dumps(REQUIRED).encode()


def test_answers() -> None:
    value = event(type="dev.podpair.result", id="r1", data={"data": 1})
    told = event_of_record(value, [FORM], 7, b"e.3.")
    assert (told.kind, told.id, json.loads(told.payload)["data"]) == (Kind.TERMINAL, "r1", 1)
    assert ended_by(value, [FORM]) == "r1"
    assert json.loads(answer_again("r1", value, [FORM]).payload) == {"data": 1, "type": "result", "id": "r1"}
    part = event_of_record(event(type="dev.podpair.partial", data="x", seq=4), [FORM], 7, b"e.3.")
    assert (part.kind, json.loads(part.payload)["seq"]) == (Kind.PARTIAL, 4)
    assert ended_by(event(), [FORM]) is ended_by(b"{", [FORM]) is None


REQUEST = {"type": "dev.podpair.request", "subject": "ann", "model": "m", "data": {"data": [1]}}


@pytest.mark.parametrize(
    "deadline", ["1790000000000", 1790000000000, "2026-09-21T14:13:20Z", "2026-09-21T16:13:20.000+02:00"]
)
def test_requests(deadline: Any) -> None:
    found = request_of_record(event(**REQUEST, deadline=deadline, traceparent="00-a"), [FORM])
    assert isinstance(found, Request)
    assert (found.id, found.session, found.model, found.body, found.trace) == (
        "e",
        "ann",
        "m",
        b'{"data": [1]}',
        "00-a",
    )
    assert found.deadline == 1_790_000_000
    binary = [("ce_id", b"e"), ("ce_subject", b"ann"), ("ce_model", b"m"), ("ce_deadline", str(deadline).encode())]
    assert request_of_record(found.body, [*binary, ("ce_traceparent", b"00-a")]) == found
    # podpair's own headers count for more.
    own = request_of_record(b"", [*binary, ("model", b"other"), ("deadline", b"1000")])
    assert (own.model, own.deadline) == ("other", 1.0)  # type: ignore[union-attr]


@pytest.mark.parametrize("deadline", ["soon", "", "2026-13-01T00:00:00Z", "9" * 400, True])
def test_a_deadline_that_is_no_time(deadline: Any) -> None:
    with pytest.raises(InvalidRecord, match="deadline"):
        request_of_record(event(**REQUEST, deadline=deadline), [FORM])


def test_a_cancellation() -> None:
    assert request_of_record(event(type="dev.podpair.cancel", subject="ann"), [FORM]) == Cancellation("e", "ann")


def test_a_mark_of_the_gateways_is_no_extension() -> None:
    found = request_of_record(event(**REQUEST, queued_at="1790000000000"), [FORM])
    assert found.queued_at is None  # type: ignore[union-attr]


def test_a_dead_letter_is_put_back_without_its_deadline() -> None:
    value = event(**REQUEST, deadline="1790000000000")
    letter = to_dead_letter([FORM], reason="why", attempts=3, origin="t[0]@1", time="now", by="gw")
    assert parse_dead_letter(value, letter)[:4] == ("e", "ann", "m", "why")
    again = request_of_record(*from_dead_letter(value, letter))
    assert isinstance(again, Request)
    assert (again.id, again.session, again.model, again.deadline) == ("e", "ann", "m", None)


def test_an_extension() -> None:
    assert extension({"a": b"1", "ce_a": b"2"}, "a") == b"1"
    assert extension({"ce_a": b"2"}, "a") == b"2"
    assert extension({}, "a") is None
