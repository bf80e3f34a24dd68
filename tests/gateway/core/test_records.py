"""Whatever is written to the results topic becomes an event that its client can read, and nothing more than that."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.lanes import Priority
from podpair.gateway.core.record_headers import answer_headers, request_headers
from podpair.gateway.core.records import (
    ERROR,
    Event,
    InvalidRecord,
    Kind,
    Request,
    accepted_event,
    control_event,
    event_of_record,
    record_value,
    request_of_record,
    result_event,
    unplaced_event,
)
from podpair.gateway.core.wires import EventStreamWire, JsonWire, RawWire
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.malformed_records import MalformedRecords

PREFIX = b"e.3."
DEEP = b"[" * 50_000 + b"]" * 50_000


def read(value: bytes | None, headers: Any = None) -> tuple[Event, dict[str, Any]]:
    event = event_of_record(value, headers, 7, PREFIX)
    return event, json.loads(event.payload)


def typed(kind: str, request: bytes | None = b"r1", **more: bytes) -> list[tuple[str, bytes | None]]:
    return [("ce_type", b"dev.podpair." + kind.encode()), ("ce_id", request), *more.items()]


@pytest.mark.parametrize("headers", [None, [], [("other", b"x")], typed("push"), typed("request"), typed("nonsense"),
                                     typed("result", None), typed("result", b""), [("ce_type", b"dev.podpair.result")],
                                     [("ce_type", None)], [("ce_type", b"\xff")]])  # fmt: skip
@pytest.mark.parametrize("value", [b'{"a":1}', b" [1, 2]\n", b'"text"', b"0", b"null", '"\u00fc"'.encode()])
def test_json_without_a_type_is_a_push(value: bytes, headers: Any) -> None:
    event, body = read(value, headers)
    assert body == {"type": "push", "data": json.loads(value), "position": "e.3.7"}
    assert (event.kind, event.name, event.id, event.offset) == (Kind.PUSH, "push", None, 7)


@pytest.mark.parametrize("value", [b"", b"plain", b"\xff\xfe", b'{"a":1', b'{"a":1} x', b"NaN", b'{"a":"\xff"}', DEEP,
                                   b"\xef\xbb\xbf{}"])  # fmt: skip
def test_anything_else_comes_as_base64(value: bytes) -> None:
    _, body = read(value)
    assert body == {"type": "push", "data_base64": base64.b64encode(value).decode(), "position": "e.3.7"}


def test_a_tombstone_is_a_push_of_null() -> None:
    assert read(None)[1] == {"type": "push", "data": None, "position": "e.3.7"}


def test_a_result() -> None:
    event, body = read(b' {"outputs":[],"model":"m"} ', typed("result"))
    assert body == {"outputs": [], "model": "m", "type": "result", "id": "r1", "position": "e.3.7"}
    assert (event.kind, event.name, event.id) == (Kind.TERMINAL, "result", "r1")


def test_an_error() -> None:
    event, body = read(b'{"code":"invalid","message":"no"}', typed("error"))
    assert body == {"code": "invalid", "message": "no", "type": "error", "id": "r1", "position": "e.3.7"}
    assert event.kind is Kind.TERMINAL


@pytest.mark.parametrize("kind", ["result", "error"])
@pytest.mark.parametrize("value", [None, b"", b"[1]", b"text", b'{"a":1', b'{"a":"\xff"}', b'{"a":' + DEEP + b"}"])
def test_an_answer_that_is_no_object_still_ends_its_request(value: bytes | None, kind: str) -> None:
    event, body = read(value, typed(kind))
    assert (event.kind, event.name) == (Kind.TERMINAL, "error")
    assert body == {
        "code": "internal", "message": "the record's value is not a JSON object",
        "type": "error", "id": "r1", "position": "e.3.7",
    }  # fmt: skip


@pytest.mark.parametrize(("value", "data"), [(b'"tok"', "tok"), (b"[1]", [1]), (b"not json", None), (None, None)])
def test_a_partial(value: bytes | None, data: object) -> None:
    event, body = read(value, typed("partial", seq=b"12"))
    assert body == {"seq": 12, "data": data, "type": "partial", "id": "r1", "position": "e.3.7"}
    assert event.kind is Kind.PARTIAL


@pytest.mark.parametrize(("seq", "number"), [(b"0", 0), (b"007", 7), (b"-1", 0), (b"x", 0), (b"", 0), (b"9" * 5000, 0),
                                             (b"1.5", 0), ("٣".encode(), 0)])  # fmt: skip
def test_a_seq_that_is_no_number_harms_nobody(seq: bytes, number: int) -> None:
    assert read(b"1", typed("partial", seq=seq))[1]["seq"] == number


@pytest.mark.parametrize("kind", ["result", "error"])
def test_a_value_cannot_forge_the_envelope(kind: str) -> None:
    """A parser takes the last of equal names, and the gateway's stand last."""
    _, body = read(b'{"type":"push","id":"other","position":"e.0.0","code":"x"}', typed(kind))
    assert (body["type"], body["id"], body["position"]) == (kind, "r1", "e.3.7")


def test_a_push_cannot_be_taken_for_an_answer() -> None:
    _, body = read(b'{"type":"result","id":"r1"}')
    assert body["type"] == "push"


@pytest.mark.parametrize("request_id", ['qu"ote', "new\nline", "back\\slash", "\u00fc\u6f22", "x" * 128])
def test_any_id_comes_back_as_it_was(request_id: str) -> None:
    assert read(b"{}", typed("result", request_id.encode()))[1]["id"] == request_id


def test_an_id_that_is_no_utf8_is_still_text() -> None:
    assert read(b"{}", typed("result", b"\xff"))[1]["id"] == "\ufffd"


@given(st.one_of(st.none(), st.binary(max_size=50)), st.lists(st.tuples(
    st.sampled_from(["ce_type", "ce_id", "seq", "x"]),
    st.one_of(st.none(), st.binary(max_size=8), st.sampled_from([b"dev.podpair.partial", b"dev.podpair.result"])),
)))  # fmt: skip
def test_every_record_becomes_an_event_in_utf8_json(value: bytes | None, headers: list[Any]) -> None:
    event, body = read(value, headers)
    assert body["type"] == event.name
    assert body["position"] == "e.3.7"
    assert (event.kind is Kind.PUSH) == ("id" not in body)


GOOD = {"ce_id": b"r", "ce_subject": b"s", "model": b"m"}
texts = st.text(max_size=20).filter(lambda t: "\x00" not in t)
moments = st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)


@given(texts, texts, texts, st.one_of(st.none(), moments), moments)
def test_a_queued_request_reads_back(
    request: str, session: str, model: str, deadline: float | None, now: float
) -> None:
    headers = request_headers(
        request_id=request, session=session, model=model, source="gw-1", now=now, deadline=deadline
    )
    found = request_of_record(b"{}", headers)
    assert (found.id, found.session, found.model, found.body) == (request, session, model, b"{}")
    assert isinstance(found, Request)
    assert found.deadline == deadline  # to the millisecond, which both are whole ones of
    assert found.time == pytest.approx(now, abs=1e-5)


@pytest.mark.parametrize(
    ("written", "lane"),
    [
        ({}, 2), ({"priority": b"normal"}, 2), ({"priority": b"high"}, 1), ({"priority": b"low"}, 2),
        ({"ce_priority": b"high"}, 1), ({"priority": b"\xff"}, 2), ({"priority": b"highest"}, 2), ({"priority": None}, 2),
    ],
)  # fmt: skip
def test_a_queued_request_waits_by_its_priority_a_lane_below_direct_ones(written: Any, lane: int) -> None:
    own = request_headers(request_id="r", session="s", model="m", source="g", now=1.0, deadline=None)
    found = request_of_record(b"{}", [*own, *written.items()])
    assert isinstance(found, Request)
    assert found.lane == lane
    priorities: tuple[Priority, ...] = ("high", "normal", "low")
    for priority in priorities:
        headers = request_headers(
            request_id="r", session="s", model="m", source="g", now=1.0, deadline=None, priority=priority
        )
        again = request_of_record(b"{}", headers)
        assert isinstance(again, Request)
        assert again.lane == (1 if priority == "high" else 2)


@pytest.mark.parametrize("moment", [8368.524, 1700000000.001, 1700000000.999, 4000000000.029, 0.0, 1.001, 0.29])
def test_a_time_of_whole_milliseconds_comes_back_as_it_was(moment: float) -> None:
    """8368.524 * 1000 is 8368523.999… to a computer."""
    headers = request_headers(request_id="r", session="s", model="m", source="g", now=moment, deadline=moment)
    found = request_of_record(b"{}", headers)
    assert isinstance(found, Request)
    assert (found.time, found.deadline, found.queued_at) == (pytest.approx(moment, abs=1e-6), moment, moment)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01t00:00:10z", 10),
        ("1970-01-01 00:00:10z", 10),
        ("1970-01-01t01:30:10+01:30", 10),
        ("1969-12-31T23:00:10-01:00", 10),
        ("1970-01-01T00:00:10-00:00", 10),
        ("1970-01-01T00:00:10.5Z", 10.5),
        ("1970-01-01T00:00:10.000000000000000000001z", 10),
        ("1970-01-01T00:00:10.25+00:00", 10.25),
        ("1970-01-02T00:00:00Z", 86400),
        ("1998-12-31T23:59:60Z", 915148800),
        ("1990-12-31T15:59:60-08:00", 662688000),
        ("2016-12-31T23:59:60.5z", 1483228800.5),
        ("2024-02-29T12:00:00Z", 1709208000),
        ("0000-01-01T00:00:00Z", -62167219200),
        ("0000-02-29T00:00:00z", -62162121600),
        ("9999-12-31T23:59:59.999Z", 253402300799.999),
        ("9999-12-31T23:59:59-23:59", 253402387139),
        ("2026-01-01", 1767225600),  # ISO 8601's, not RFC 3339's: there is no doubt about what is meant
        ("2026-01-01T00:00:00", 1767225600),
    ],
)
def test_any_time_of_rfc_3339_is_read(text: str, seconds: float) -> None:
    found = request_of_record(b"{}", [*GOOD.items(), ("ce_time", text.encode())])
    assert isinstance(found, Request)
    assert found.time == pytest.approx(seconds, abs=1e-5)


@pytest.mark.parametrize(
    "text",
    ["", "now", "1970-01-01T24:00:01Z", "1970-01-01T00:60:00Z", "1970-01-01T00:00:61Z", "1970-13-01T00:00:00Z",
     "2023-02-29T00:00:00Z", "1970-01-01T00:00:00+24:00", "1970-01-01T00:00:00+01:60",
     "١970-01-01T00:00:00Z"],
)  # fmt: skip
def test_what_is_no_time_says_so(text: str) -> None:
    with pytest.raises(InvalidRecord, match="ce_time"):
        request_of_record(b"{}", [*GOOD.items(), ("ce_time", text.encode())])


def test_the_headers_are_a_cloudevent() -> None:
    headers = dict(answer_headers(ERROR, request_id="r", session=b"s", source="gw-1", now=0.0015))
    time = datetime.fromisoformat(headers.pop("ce_time").decode())
    assert time == datetime(1970, 1, 1, 0, 0, 0, 1000, UTC)
    assert headers == {
        "ce_specversion": b"1.0", "ce_id": b"r", "ce_type": b"dev.podpair.error", "ce_source": b"gw-1",
        "ce_subject": b"s", "content-type": b"application/json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "ce_id"),
        ({**GOOD, "ce_subject": None}, "'ce_subject' is missing"),
        ({"ce_id": b"r", "ce_subject": b"s"}, "'model' is missing"),
        ({**GOOD, "model": b"\xff"}, "not UTF-8"),
        ({**GOOD, "deadline": b"soon"}, "deadline"),
        ({**GOOD, "ce_time": b"yesterday"}, "ce_time"),
        ({**GOOD, "deadline": b"9" * 20}, "deadline"),
        ({**GOOD, "deadline": b"9" * 400}, "deadline"),
    ],
)
def test_a_record_that_is_no_request_says_why(headers: dict[str, bytes | None], said: str) -> None:
    with pytest.raises(InvalidRecord, match=said):
        request_of_record(b"{}", list(headers.items()))


@pytest.mark.parametrize("body", [b'{"outputs":[{"name":"x"}],"timing":{"queue_ms":1}}', b'{"data":1}'])
def test_an_answer_and_the_value_of_its_record_are_the_same(body: bytes) -> None:
    event = result_event('r"1', body[1:-1])
    assert json.loads(event.payload) == {**json.loads(body), "type": "result", "id": 'r"1'}
    assert json.loads(record_value(event)) == json.loads(body)


def test_on_a_raw_connection_an_answer_is_the_value_of_its_record() -> None:
    """Whichever way it came: a request that was posted into the session may be answered directly."""
    wire = RawWire()
    queued = wire.event(b'{"data":1}', typed("result"), 7)
    direct = result_event("r1", b'"data":1')
    assert wire.encode([queued]) == wire.encode([direct]) == b'\x81\x0a{"data":1}'


def test_a_text_event_and_a_stream_event_say_the_same() -> None:
    value = b'{"a":\n1}'
    event = JsonWire(PREFIX).event(value, None, 7)
    assert event == EventStreamWire(PREFIX).event(value, None, 7)
    assert EventStreamWire(PREFIX).encode([event]).split(b"\r\n")[1].startswith(b"id: e.3.7\nevent: push\ndata: {")


def test_an_id_has_the_token_that_its_client_has_been_sent() -> None:
    wire = EventStreamWire(PREFIX, lambda token: f"short-{token}", chunked=False)

    def id_of(event: Event) -> str | None:
        first = wire.encode([event]).decode().split("\n")[0]
        return first.removeprefix("id: ") if first.startswith("id: ") else None

    assert id_of(control_event("welcome", b'{"resume":"one","position":"e.3.4"}')) == "e.3.4~short-one"
    assert id_of(wire.event(b"1", None, 7)) == "e.3.7~short-one"
    assert id_of(accepted_event("r", "direct")) is None
    assert id_of(control_event("gap", b'{"from":"e.3.7","to":"e.3.9"}')) == "e.3.9~short-one"
    assert id_of(control_event("gap", b'{"reason":"requests","resume":"two"}')) == "e.3.9~short-two"
    assert id_of(wire.event(b"1", None, 12)) == "e.3.12~short-two"
    wire.renew("three")
    assert id_of(wire.event(b"1", None, 13)) == "e.3.13~short-three"


def test_a_stream_is_never_ended_by_what_is_written() -> None:
    """An empty chunk is the end of a chunked body; a comment without a blank line is no event to any client."""
    assert EventStreamWire(PREFIX).encode([]) == b""
    assert EventStreamWire(PREFIX).comment() == b"2\r\n:\n\r\n"
    assert EventStreamWire(PREFIX, chunked=False).comment() == b":\n"


@pytest.mark.parametrize("value", [b'{"a": [1, null]}', b"\xff\x00", None, b'{"position":"forged.0.7"}'])
@pytest.mark.parametrize("ce_type", [None, b"dev.podpair.result", b"dev.podpair.partial", b"dev.podpair.error"])
def test_a_record_outside_its_home_is_the_same_event_without_a_position(
    value: bytes | None, ce_type: bytes | None
) -> None:
    headers = [] if ce_type is None else [("ce_type", ce_type), ("ce_id", b"r")]
    placed, unplaced = event_of_record(value, headers, 7, b"e.1."), unplaced_event(value, headers)
    members = json.loads(placed.payload)
    assert members.pop("position") == "e.1.7"
    assert json.loads(unplaced.payload) == members
    assert unplaced.offset == -1
    assert unplaced[:3] == placed[:3]


@pytest.mark.parametrize(
    ("kind", "value", "malformed"),
    [
        ("result", b'{"data":1}', False), ("result", b"[1]", True), ("result", b"{", True), ("result", None, True),
        ("error", b'{"code":"x"}', False), ("error", b"\xff", True),
        ("partial", b'"a"', False), ("partial", b"a", True), ("partial", None, True),
        ("push", b"{", False), ("push", None, False),
    ],
)  # fmt: skip
def test_who_hears_of_values_that_are_not_what_their_types_say(kind: str, value: bytes | None, malformed: bool) -> None:
    metrics = Metrics()
    heard: list[Event] = []
    wire = JsonWire(PREFIX)
    records = MalformedRecords("results", metrics)
    wire.on_malformed = lambda event, headers: (heard.append(event), records.count(event, headers))
    headers = [("ce_type", f"dev.podpair.{kind}".encode()), ("ce_id", b"r"), ("ce_source", b"billing")]
    event = wire.event(value, headers, 7)
    assert json.loads(event.payload)["position"]
    assert heard == ([event] if malformed else [])
    name, labels = "podpair_gateway_results_records_malformed_total", {"type": kind}
    assert (metrics.registry.get_sample_value(name, labels) or 0) == malformed


def test_they_are_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    records, wire = MalformedRecords("results", Metrics()), JsonWire(PREFIX)
    wire.on_malformed = records.count
    headers = [("ce_type", b"dev.podpair.result"), ("ce_id", b"r"), ("ce_source", b"billing"), ("ce_subject", b"s")]
    for offset in range(5):
        wire.event(b"?", headers, offset)
    (told,) = caplog.messages
    assert (
        told
        == "a record of results at offset 0 is a result whose value is not a JSON object; it was written by billing"
    )


OWN = request_headers(request_id="r-ä", session="s", model="m", source="gw", now=1_790_000_000.123, deadline=None)


def outcome_of(value: bytes | None, headers: Any) -> Any:
    try:
        return request_of_record(value, headers)
    except InvalidRecord as error:
        return str(error)


@pytest.mark.parametrize("name", [name for name, _ in OWN])
@pytest.mark.parametrize(
    "text",
    [b"", b"x", b"\xff", None, b"dev.podpair.cancel", b"dev.podpair.result", b"application/cloudevents+json", b"1790000000123",
     b"2026-09-21T13:33:20.123+00:00", b"2026-09-21T13:33:20.1x3+00:00", b"2026-13-21T13:33:20.123+00:00",
     b"2026-09-21T13:33:60.123+00:00"],
)  # fmt: skip
def test_a_record_as_a_gateway_writes_it_says_the_same_as_one_that_has_more_headers(name: str, text: Any) -> None:
    headers = [(other, text if other == name else value) for other, value in OWN]
    assert outcome_of(b"{}", headers) == outcome_of(b"{}", [*headers, ("beside", b"1")])


def test_a_record_as_a_gateway_writes_it_is_read() -> None:
    found = Request("r-ä", "s", "m", None, 1_790_000_000.123, b"{}", "", 1_790_000_000.123)
    assert request_of_record(b"{}", OWN) == found
    assert request_of_record(b"{}", [*OWN, ("ce_id", b"later")]) == found._replace(id="later"), (
        "the last of a name counts"
    )
    traced = request_of_record(b"{}", [*OWN, ("traceparent", b"00-a"), ("deadline", b"1000")])
    assert traced == found._replace(trace="00-a", deadline=1.0)
