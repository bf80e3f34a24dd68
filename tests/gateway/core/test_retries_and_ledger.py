"""Which way a request goes, how often it is tried, and that it ends once."""

import pytest

from podpair.gateway.core.ledger import Ledger, OpenRequest
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault, RouteName
from podpair.gateway.core.records import result_event
from podpair.gateway.core.retry_policy import RetryPolicy
from podpair.gateway.core.routing import Load, choose_route

IDLE = Load(ready=True, in_flight=0, limit=2)
FULL = IDLE._replace(in_flight=2)
DOWN = IDLE._replace(ready=False)


@pytest.mark.parametrize(
    ("asked", "load", "route"),
    [
        ("auto", IDLE, "direct"),
        ("direct", IDLE, "direct"),
        ("queue", IDLE, "queue"),
        ("auto", IDLE._replace(in_flight=1), "direct"),
        ("auto", FULL, "queue"),
        ("auto", DOWN, "queue"),
        ("queue", DOWN, "queue"),
    ],
)
def test_the_way_a_request_goes(asked: RouteName, load: Load, route: str) -> None:
    assert choose_route(asked, load) == route


@pytest.mark.parametrize(
    ("asked", "load", "said"),
    [
        ("direct", FULL, "2 direct requests are running"),
        ("direct", DOWN, "not ready"),
    ],
)
def test_full_is_said_at_once(asked: RouteName, load: Load, said: str) -> None:
    with pytest.raises(Fault, match=said) as refused:
        choose_route(asked, load)
    assert refused.value.code is Code.OVERLOADED
    assert refused.value.retry_after_ms


def test_a_model_that_fails_is_tried_a_bounded_number_of_times() -> None:
    attempts = RetryPolicy(max_attempts=3, backoff_seconds=0.2, max_crashes=3)
    assert [attempts.next(Failed("x")) for _ in range(3)] == [("wait", 0.2), ("wait", 0.4), ("give_up", 0.0)]
    verdict = attempts.terminal_error(Failed("x"))
    assert (verdict.code, verdict.message) == (Code.UPSTREAM, "the model failed 3 times: x")


def test_a_model_that_is_away_or_busy_costs_no_attempt() -> None:
    attempts = RetryPolicy(max_attempts=1, backoff_seconds=0.2, max_crashes=3)
    for _ in range(100):
        assert attempts.next(Unavailable("gone")) == ("wait_ready", 0.0)
        assert attempts.next(Busy(1.5)) == ("wait", 1.5)
    assert attempts.failures == 0
    assert attempts.next(Failed("x")) == ("give_up", 0.0)
    assert attempts.terminal_error(Failed("x")).message == "the model failed once: x"


def test_a_model_that_dies_of_a_request_dies_of_it_a_bounded_number_of_times() -> None:
    attempts = RetryPolicy(max_attempts=1, backoff_seconds=0.2, max_crashes=2)
    died = Unavailable("connection reset", midway=True)
    assert attempts.next(died) == ("wait_ready", 0.0)
    assert attempts.poison_suspect
    assert attempts.next(Unavailable("connection refused")) == ("wait_ready", 0.0)
    assert attempts.next(died) == ("give_up", 0.0)
    assert attempts.terminal_error(died).message == "the model died 2 times while it had this request"


def test_back_off_has_an_end() -> None:
    attempts = RetryPolicy(max_attempts=10_000, backoff_seconds=0.2, max_crashes=3)
    assert max(attempts.next(Failed("x"))[1] for _ in range(9_999)) == 10.0


def opened(*ids: str, limit: int = 10) -> Ledger:
    ledger = Ledger(limit)
    for request_id in ids:
        ledger.open(request_id, OpenRequest("direct", cancels_on_disconnect=False))
    return ledger


def test_a_session_has_only_so_many_open() -> None:
    ledger = opened("a", "b", limit=2)
    with pytest.raises(Fault, match="2 requests") as refused:
        ledger.open("c", OpenRequest("queue", cancels_on_disconnect=False))
    assert refused.value.code is Code.OVERLOADED
    ledger.end("a")
    ledger.open("c", OpenRequest("queue", cancels_on_disconnect=False))
    assert set(ledger.opened) == {"b", "c"}


def test_a_request_ends_once() -> None:
    ledger = opened("a")
    assert ledger.end("a") is not None
    assert ledger.end("a") is None
    assert ledger.is_duplicate("a", 7)


def test_the_first_copy_is_no_second_however_often_it_is_read() -> None:
    ledger = opened("a")
    assert not ledger.is_duplicate("a", 7)
    ledger.end("a", 7)
    assert not ledger.is_duplicate("a", 7)
    assert ledger.is_duplicate("a", 9)


def test_an_id_may_be_used_again() -> None:
    ledger = opened("a")
    ledger.end("a")
    ledger.open("a", OpenRequest("queue", cancels_on_disconnect=False))
    assert not ledger.is_duplicate("a", 7)


def test_what_was_never_accepted_leaves_no_trace() -> None:
    ledger = opened("a")
    ledger.discard("a")
    ledger.discard("a")
    assert ledger.get("a") is None
    assert not ledger.is_duplicate("a", 7)


def test_an_answer_to_a_request_of_another_gateway_is_passed_on() -> None:
    ledger = opened()
    assert not ledger.is_duplicate("elsewhere", 3)
    assert ledger.end("elsewhere", 3) is None
    assert ledger.is_duplicate("elsewhere", 5)


def test_only_so_many_ends_are_remembered() -> None:
    ledger = Ledger(10, kept_bytes=1 << 17)
    for n in range(1000):
        ledger.open(f"r{n}", OpenRequest("direct", cancels_on_disconnect=False))
        ledger.end(f"r{n}")
    assert ledger._ended is not None
    assert 180 < len(ledger._ended) <= 256
    assert ledger.is_duplicate("r999", 1)
    assert not ledger.is_duplicate("r0", 1)


def plainly(*ids: str) -> Ledger:
    """A ledger in which these requests have ended as plain ones do."""
    ledger = Ledger(10, kept_bytes=1 << 15)
    for request_id in ids:
        open_requests = ledger.open_plainly()[0]
        request = open_requests[request_id] = OpenRequest("direct", cancels_on_disconnect=False)
        assert ledger.end_plainly(request_id, request, b'"data":1')
        assert not ledger.end_plainly(request_id, request, b'"data":2')
    return ledger


@pytest.mark.parametrize("count", [1, 15, 16, 40])
def test_what_has_ended_plainly_is_known_at_once(count: int) -> None:
    ids = [f"r{number}" for number in range(count)]
    _, *containers, room = plainly(*ids).open_plainly()
    assert room == 10
    assert all(any(request_id in container for container in containers) for request_id in ids)
    assert plainly(*ids).is_duplicate(ids[-1], 7)
    assert plainly(*ids).has_ended(ids[0])
    assert plainly(*ids).remembers
    assert plainly(*ids).recent_answer(ids[-1]) == result_event(ids[-1], b'"data":1')
    assert plainly(*ids).end(ids[-1]) is None
    ledger = plainly(*ids)
    ledger.on_reconnect()
    assert not ledger.has_ended(ids[-1])
    assert ledger.recent_answer(ids[-1]) == result_event(ids[-1], b'"data":1')


def test_another_request_under_the_same_id_is_not_ended_with_it() -> None:
    ledger = opened("a")
    assert not ledger.end_plainly("a", OpenRequest("direct", cancels_on_disconnect=False), b"")
    assert ledger.get("a") is not None
    assert not ledger.has_ended("a")
