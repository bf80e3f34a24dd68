"""A result that is encoded as a frame says what its event would say; whatever else stands in the log takes the way of events."""

from typing import Any, cast

import pytest

from podpair.gateway.core.answer_frames import answer_frames
from podpair.gateway.core.frames import text_frames
from podpair.gateway.core.ledger import Ledger, OpenRequest
from podpair.gateway.core.record_headers import answer_headers
from podpair.gateway.core.records import ERROR, PARTIAL, RESULT, event_of_record
from podpair.gateway.core.wires import EventStreamWire, JsonWire, RawWire
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session

PREFIX = b"e.3."
VALUES = [
    b'{"data":[1,2]}',
    b'{"a":1 }',
    b'{"\xc3\xa4":"\xc3\xa4"}',
    b'{"a":"%b"}' % (b"x" * 70_000),
    b'{"a":{"b":[]}}',
]


def headers_of(request_id: str, ce_type: bytes = RESULT) -> Any:
    return answer_headers(ce_type, request_id=request_id, session=b"s", source="gw", now=1.5)


def changed(name: str, value: bytes | None) -> Any:
    return [(other, value if other == name else text) for other, text in headers_of("r")]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("request_id", ["r", 'quo"te', "ä", "x" * 300])
def test_a_result_is_the_frame_of_its_event(value: bytes, request_id: str) -> None:
    headers = headers_of(request_id)
    found = answer_frames([(7, value, headers)], PREFIX)
    assert found is not None
    [frame] = found
    event = event_of_record(value, headers, 7, PREFIX)
    assert (frame.id, frame.offset, frame.data) == (event.id, 7, text_frames([event.payload]))


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b'{"data":[1]}', None),
        (b'{"data":[1]}', []),
        (b'{"data":[1]}', headers_of("r", ERROR)),
        (b'{"data":[1]}', headers_of("r", PARTIAL)),
        (b'{"data":[1]}', headers_of("")),
        (b'{"data":[1]}', changed("ce_id", b"\xff")),
        (b'{"data":[1]}', changed("ce_id", None)),
        (b'{"data":[1]}', changed("content-type", b"application/cloudevents+json")),
        (b'{"data":[1]}', [*headers_of("r"), ("ce_type", ERROR)]),
        (b'{"data":[1]}', [*headers_of("r"), ("seq", b"1")]),
        (None, headers_of("r")),
        (b"", headers_of("r")),
        (b"{}", headers_of("r")),
        (b"[1]", headers_of("r")),
        (b'{"a":1}}', headers_of("r")),
        (b'{"a":1},"type":"push"}', headers_of("r")),
        (b' {"a":1} ', headers_of("r")),
        (b'{"a":"\xff"}', headers_of("r")),
        (b'{"a":%b}' % (b"[" * 5000 + b"]" * 5000), headers_of("r")),
    ],
)
def test_anything_else_is_left_to_events_and_all_that_came_with_it(value: bytes | None, headers: Any) -> None:
    plain = (6, b'{"a":1}', headers_of("q"))
    assert answer_frames([plain, (7, value, headers)], PREFIX) is None


def test_other_wires_make_events() -> None:
    records = [(7, b'{"a":1}', headers_of("r"))]
    assert JsonWire(PREFIX).answers(records)
    assert EventStreamWire(PREFIX).answers(records) is None  # type: ignore[func-returns-value]
    assert RawWire().answers(records) is None  # type: ignore[func-returns-value]


class Transport:
    """A client's, which has so many bytes to take yet."""

    def __init__(self, buffered: int = 0, *, closing: bool = False) -> None:
        self.written = bytearray()
        self._buffered, self._closing = buffered, closing

    def get_extra_info(self, _: str) -> None:
        """There is no TLS."""

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes) -> None:
        self.written += data


def session_with(transport: Transport, limit: int = 1 << 20) -> Session:
    session = Session("s", "user", 3, Ledger(10, 1 << 14))
    session.seen = 4
    session.connection = Connection(
        cast("Any", transport), JsonWire(PREFIX), cast("Any", set()), limit, lambda code, reason: None
    )
    session.connection._before_welcome = None
    return session


def records_of(*ids: str) -> Any:
    return [(5 + place, b'{"a":1}', headers_of(name)) for place, name in enumerate(ids)]


def test_results_end_their_requests_in_one_write_and_a_second_copy_is_dropped() -> None:
    transport = Transport()
    session, fresh = session_with(transport), session_with(Transport())
    for one in (session, fresh):
        one.ledger.open("a", OpenRequest("queue", cancels_on_disconnect=False))
        one.ledger.open("b", OpenRequest("queue", cancels_on_disconnect=False, accepted=True))
    assert session.push(records_of("a", "b", "a")) == 2
    by_events = fresh.deliver(records_of("a", "b", "a"))
    assert (by_events.sent, by_events.duplicates) == (3, 1), "`accepted` counts there"
    assert transport.written == cast("Any", fresh.connection)._transport.written
    assert transport.written.count(b'"accepted"') == 1
    assert (session.seen, dict(session.ledger.opened)) == (7, {})
    assert session.ledger.has_ended("a")


@pytest.mark.parametrize(
    "session",
    [
        session_with(Transport(1 << 17)),
        session_with(Transport(closing=True)),
        session_with(Transport(), limit=200),
    ],
    ids=["slow", "gone", "larger than its buffer"],
)
def test_nothing_ends_before_it_is_known_that_the_client_takes_it(session: Session) -> None:
    session.ledger.open("a", OpenRequest("queue", cancels_on_disconnect=False))
    assert session.push(records_of("a", "b")) is None
    assert session.seen == 4
    assert session.ledger.get("a") is not None


def test_what_was_seen_or_is_mixed_is_left_to_events() -> None:
    session = session_with(Transport())
    session.seen = 5
    assert session.push(records_of("a", "b")) is None
    session.seen = 4
    assert session.push([*records_of("a"), (9, b"1", None)]) is None
    assert session.push([(5, b"1", None), (6, b'{"a":1}', headers_of("a"))]) is None
    assert session.seen == 4
