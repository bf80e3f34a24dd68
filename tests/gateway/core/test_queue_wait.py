"""How long requests wait is learnt from what gateways queued, whatever the clocks of others say."""

from collections.abc import Iterable

import pytest

from podpair.gateway.core.dead_letters import from_dead_letter, to_dead_letter
from podpair.gateway.core.queue_wait import AppendTimes, representative_wait
from podpair.gateway.core.record_headers import request_headers
from podpair.gateway.core.records import Headers, Request, request_of_record

NOW = 1_800_000_000.0
DAY = 86_400.0
NONE, CREATED, APPENDED = 0, 1, 2  # what a timestamp is, in confluent-kafka


def of(headers: Iterable[tuple[str, bytes | None]]) -> Request:
    found = request_of_record(b"{}", list(headers))
    assert isinstance(found, Request)
    return found


def queued(at: float) -> list[tuple[str, bytes]]:
    return request_headers(request_id="r", session="s", model="m", source="gw", now=at, deadline=None)


def waited(headers: Headers, written: float, *, kind: int = CREATED, times: AppendTimes | None = None) -> float:
    request = of(headers)
    seen = (times or AppendTimes()).observe((kind, int(written * 1000)), request, NOW)
    return representative_wait(request, seen, NOW)


@pytest.mark.parametrize("kind", [CREATED, APPENDED])
def test_what_a_gateway_queued_counts(kind: int) -> None:
    assert waited(queued(NOW - 7), NOW - 7, kind=kind) == pytest.approx(7)


def test_a_broker_that_writes_its_own_time_is_believed() -> None:
    assert waited(queued(NOW - 8), NOW - 7, kind=APPENDED) == pytest.approx(7)


@pytest.mark.parametrize(
    ("headers", "written"),
    [
        ([("ce_time", b"2026-01-01T00:00:00Z")], NOW - 1),  # its event is old
        ([], NOW - 1),
        ([], NOW - DAY),  # a producer that writes its event's time as Kafka's timestamp, as Flink does
        ([("ce_source", b"gw")], NOW - DAY),
        ([("queued_at", b"soon")], NOW - 30),
        ([("queued_at", b"9" * 400)], NOW - 30),
        ([("queued_at", "\u0663".encode())], NOW - 30),
        ([("queued_at", None)], NOW - 30),
    ],
)
def test_what_others_wrote_counts_for_nothing(headers: Headers, written: float) -> None:
    mandatory = [("ce_id", b"r"), ("ce_subject", b"s"), ("model", b"m")]
    assert waited([*mandatory, *headers], written) == 0.0


def test_a_copy_that_was_written_later_counts_for_nothing() -> None:
    assert waited(queued(NOW - DAY), NOW - 1) == 0.0
    assert waited(queued(NOW - 600), NOW - 1) == 0.0


def test_a_replay_counts_for_nothing() -> None:
    letter = to_dead_letter(queued(NOW - DAY), reason="no", attempts=3, origin="t[0]@1", time="", by="gw")
    for written in (NOW - DAY, NOW - 30, NOW):
        assert waited(from_dead_letter(b"", letter)[1], written) == 0.0


def test_a_replay_says_how_often_and_is_the_request_that_it_was() -> None:
    headers = queued(NOW - DAY)
    for times in (b"1", b"2", b"3"):
        headers = from_dead_letter(
            b"", to_dead_letter(headers, reason="no", attempts=3, origin="t[0]@1", time="", by="gw")
        )[1]  # type: ignore[assignment]
        assert dict(headers)["replays"] == times
        assert [name for name, _ in headers].count("replays") == 1
        again = of(headers)
        assert (again.id, again.session, again.model, again.queued_at) == ("r", "s", "m", None)
    assert dict(from_dead_letter(b"", [("replays", b"many")])[1])["replays"] == b"1"


@pytest.mark.parametrize("written", [-0.001, -5.0, NOW + 30, NOW + DAY, 9e15])
def test_a_clock_that_is_wrong_counts_for_nothing(written: float) -> None:
    assert waited(queued(max(0.0, min(written, 9e9))), written) == 0.0


def test_a_record_without_a_time_counts_for_nothing() -> None:
    assert waited(queued(NOW - 5), NOW - 5, kind=NONE) == 0.0


def test_a_gateway_whose_clock_began_in_1970() -> None:
    assert waited(queued(5.0), 5.0) == 0.0
    assert waited(queued(NOW - 3601), NOW - 3601) == 0.0


def test_a_clock_that_is_slow_is_set_right_by_the_records_before() -> None:
    """In a log nothing is older than what stands before it."""
    times = AppendTimes()
    assert waited(queued(NOW - 2), NOW - 2, times=times) == pytest.approx(2)
    assert waited(queued(NOW - 30), NOW - 30, times=times) == pytest.approx(2)
    assert waited(queued(NOW - 300), NOW - 300, times=times) == 0.0


def test_others_times_change_nothing_for_those_behind_them() -> None:
    times = AppendTimes()
    foreign = [("ce_id", b"r"), ("ce_subject", b"s"), ("model", b"m")]
    for written in (NOW, NOW - DAY, NOW + DAY, NOW - 1):
        waited(foreign, written, times=times)
    assert waited(queued(NOW - 20), NOW - 20, times=times) == pytest.approx(20)


def test_what_is_known_of_the_wait_of_a_record_of_another_service() -> None:
    """Its own client is told how long it was on the topic; its event's time has nothing to do with that."""
    old = of([("ce_id", b"r"), ("ce_subject", b"s"), ("model", b"m"), ("ce_time", b"2000-01-01T00:00:00Z")])
    assert AppendTimes().observe((CREATED, int((NOW - 3) * 1000)), old, NOW) == NOW - 3
    assert AppendTimes().observe((CREATED, int((NOW + 0.5) * 1000)), old, NOW) == NOW
