"""What is kept of answers is bounded, and the oldest goes first."""

import pytest

from podpair.gateway.core.bounded_cache import BoundedCache
from podpair.gateway.core.ledger import Ledger, OpenRequest, _size
from podpair.gateway.core.records import Event, Kind, answer_again


def test_the_oldest_gives_way() -> None:
    kept: BoundedCache[str, str] = BoundedCache(10)
    for name in "abc":
        kept.put(name, name.upper(), 4)
    assert [kept.get(name) for name in "abc"] == [None, "B", "C"]
    assert (len(kept), kept.size) == (2, 8)


def test_what_is_kept_anew_counts_once() -> None:
    kept: BoundedCache[str, str] = BoundedCache(10)
    for size in (3, 5, 2):
        kept.put("a", str(size), size)
    assert (kept.get("a"), kept.size) == ("2", 2)
    kept.discard("a")
    kept.discard("a")
    assert (kept.get("a"), kept.size) == (None, 0)


def test_what_is_larger_than_all_is_not_kept_and_drives_out_nothing() -> None:
    kept: BoundedCache[str, str] = BoundedCache(10)
    kept.put("a", "A", 10)
    kept.put("b", "B", 11)
    assert (kept.get("a"), kept.get("b")) == ("A", None)


def answer(request_id: str, offset: int = -1) -> Event:
    return Event(Kind.TERMINAL, "result", request_id, b"{}", offset)


def ended(request_id: str, offset: int = -1) -> Ledger:
    ledger = Ledger(9, kept_bytes=10_000)
    ledger.open(request_id, OpenRequest("direct", cancels_on_disconnect=False))
    ledger.end(request_id, offset)
    if offset < 0:
        ledger.store_answer(answer(request_id))
    return ledger


def test_an_answer_is_found_in_memory_or_by_its_offset() -> None:
    assert ended("r").recent_answer("r") == answer("r")
    assert ended("r", 7).recent_answer("r") == 7
    assert ended("r").recent_answer("other") is None


def test_an_answer_that_came_for_a_request_accepted_elsewhere_is_known_too() -> None:
    ledger = Ledger(9)
    assert ledger.end("r", 7) is None
    assert ledger.recent_answer("r") == 7
    assert ledger.is_duplicate("r", 8)


def test_an_answer_on_its_way_to_kafka_is_no_second_copy_when_it_comes_from_there() -> None:
    ledger = ended("r")
    assert ledger.is_duplicate("r", 7)
    ledger.on_answer_logged("r")
    assert not ledger.is_duplicate("r", 7)


def test_unless_it_was_asked_again_meanwhile_and_given_from_memory() -> None:
    ledger = ended("r")
    ledger.on_answer_logged("r")
    assert ledger.recent_answer("r") == answer("r")
    assert ledger.is_duplicate("r", 7)


def test_an_id_that_runs_again_since_the_log_has_lost_its_answer_has_none() -> None:
    ledger = ended("r", 7)
    ledger.open("r", OpenRequest("queue", cancels_on_disconnect=False))
    assert ledger.recent_answer("r") is None
    assert not ledger.remembers


def test_the_event_of_a_record_that_is_given_again_has_no_position() -> None:
    again = answer_again("r", b' {"data": {"position": 1}} ', [("ce_type", b"dev.podpair.result")])
    assert again == Event(Kind.TERMINAL, "result", "r", b'{"data": {"position": 1},"type":"result","id":"r"}', -1)
    again = answer_again("r", b'{"code":"upstream"}', [("ce_type", b"dev.podpair.error")])
    assert (again.name, again.payload) == ("error", b'{"code":"upstream","type":"error","id":"r"}')
    assert answer_again("r", b"{}", None).payload == b'{"type":"result","id":"r"}'
    assert answer_again("r", b"[1]x", None).name == "error"


@pytest.mark.parametrize("kept_bytes", [0, 1000, 1 << 15])
@pytest.mark.parametrize("request_id", ["r{}", "{:036}", "{:0128}", "\U0001f600" * 100 + "{:028}"])
def test_what_a_session_keeps_of_ended_requests_is_bounded_with_their_ids(kept_bytes: int, request_id: str) -> None:
    """`idempotency_bytes` says how much; a few ids are kept whatever it says. Measured, not counted."""
    import gc
    import tracemalloc

    ledger = Ledger(9, kept_bytes)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(2000):
            name = request_id.format(number)
            ledger.open(name, OpenRequest("direct", cancels_on_disconnect=False))
            ledger.end(name, number if number % 2 else -1)
            ledger.store_answer(Event(Kind.TERMINAL, "result", name, b'{"id":%b}' % name.encode(), -1))
        gc.collect()
        # What other tests have left running makes memory of its own.
        ours = [tracemalloc.Filter(True, name) for name in (__file__, "*/ledger.py", "*/remembered.py")]
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)
    finally:
        tracemalloc.stop()
    assert held > 16 * len(request_id)
    assert held <= kept_bytes * 1.25 + 16 * 800 + 4096
    assert ledger.is_duplicate(request_id.format(1999), 1)
    assert ledger._ended_size == _size(ledger._ended or {})
