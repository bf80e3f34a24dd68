"""What is kept of answers for their repetition is bounded, and the oldest go first."""

from podpair.gateway.core.recent_answers import RecentAnswers, _size
from podpair.gateway.core.records import Event, Kind, result_event


def answer(request_id: str, payload: bytes = b"{}") -> Event:
    return Event(Kind.TERMINAL, "error", request_id, payload, -1)


def test_results_that_came_together_give_way_together() -> None:
    kept = RecentAnswers(3 * _size("a", b"1"))
    kept.put_results({"a": b"1", "b": b"2"})
    assert kept.get("a") == result_event("a", b"1")
    kept.put_results({"c": b"3", "d": b"4"})
    assert [name in kept for name in "abcd"] == [False, False, True, True]
    assert (len(kept), kept.size) == (2, 2 * _size("a", b"1"))


def test_one_that_is_replaced_does_not_go_with_what_it_came_with() -> None:
    kept = RecentAnswers(4 * _size("a", b"12"))
    kept.put_results({"a": b"12", "b": b"12"})
    kept.put("a", answer("a"))
    kept.put("c", answer("c"))
    kept.put("d", answer("d"))
    assert [name in kept for name in "abcd"] == [True, False, True, True]
    assert kept.get("a") == answer("a")


def test_what_is_larger_than_all_is_not_kept_and_drives_out_nothing() -> None:
    kept = RecentAnswers(2 * _size("a", b"1"))
    kept.put("a", answer("a", b"1"))
    kept.put("b", answer("b", b"x" * 1000))
    kept.put_results({"c": b"x" * 1000, "d": b"1"})
    assert [name in kept for name in "abcd"] == [True, False, False, True]
