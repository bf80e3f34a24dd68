"""Answers that are kept: bounded in bytes and in seconds, and none that something has removed while it was on its way."""

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from podpair.gateway.core.answer_cache import CacheCounts, CachePolicy, Flight, ModelCache
from podpair.gateway.core.questions import Question

NOW = 1000.0


def nothing() -> None:
    pass


def cache_of(ttl: float = 10.0, max_bytes: int = 1 << 20, removed: Counter[str] | None = None) -> ModelCache:
    counted = Counter[str]() if removed is None else removed

    def count(why: str, count: int) -> None:
        counted[why] += count

    counts = CacheCounts(nothing, nothing, nothing, nothing, count)
    return ModelCache(CachePolicy("m", True, ttl, max_bytes), counts)


def q(number: int) -> Question:
    return Question(b"", b"%d" % number, b"1")


def test_an_answer_is_given_until_its_time_is_over() -> None:
    removed: Counter[str] = Counter()
    cache = cache_of(ttl=10.0, removed=removed)
    cache.store(q(1), b"one", 3, NOW)
    assert cache.get(q(1), NOW + 9.9) == b"one"
    assert cache.age(q(1), NOW + 9.9) == pytest.approx(9.9)
    assert cache.get(q(1), NOW + 10.0) is None
    assert (len(cache), cache.size, removed) == (0, 0, {"expired": 1})


def test_a_model_without_a_time_keeps_nothing() -> None:
    cache = cache_of(ttl=0.0)
    cache.store(q(1), b"one", 3, NOW)
    assert cache.get(q(1), NOW) is None


def test_the_least_recently_used_goes_first() -> None:
    removed: Counter[str] = Counter()
    cache = cache_of(max_bytes=3000, removed=removed)
    for number in range(3):
        cache.store(q(number), b"x", 300, NOW)
    assert cache.get(q(0), NOW) is not None  # used: now 1 is the oldest
    cache.store(q(3), b"x", 300, NOW)
    assert [cache.get(q(number), NOW) is not None for number in range(4)] == [True, False, True, True]
    assert removed == {"full": 1}


def test_an_answer_larger_than_all_room_is_not_kept_and_costs_no_other_its_place() -> None:
    cache = cache_of(max_bytes=3000)
    cache.store(q(1), b"x", 300, NOW)
    cache.store(q(2), b"x", 3000, NOW)
    assert (cache.get(q(1), NOW), cache.get(q(2), NOW)) == (b"x", None)


def test_what_is_cleared_takes_calls_in_flight_with_it() -> None:
    """Their answers may be as old as those that were cleared; who asks from now on must not get them."""
    cache = cache_of()
    flight = Flight(q(1))
    cache.begin(flight)
    assert cache.flight(q(1)) is flight
    cache.clear("model")
    assert cache.flight(q(1)) is None
    later = Flight(q(1))
    cache.begin(later)
    assert not cache.end(flight)  # its answer is not kept …
    assert cache.flight(q(1)) is later  # … and the one that began after it is not touched
    assert cache.end(later)


def test_another_description_of_the_model_clears_what_the_one_before_has_answered() -> None:
    cache = cache_of()
    one: Any = object()
    cache.describe(one)
    cache.store(q(1), b"one", 3, NOW)
    cache.describe(one)
    assert cache.get(q(1), NOW) == b"one"
    cache.describe(object())
    assert cache.get(q(1), NOW) is None


@given(st.lists(st.tuples(st.sampled_from(["store", "get", "clear", "wait"]), st.integers(0, 8), st.integers(0, 900))))
def test_the_size_is_that_of_what_is_kept_and_within_its_bound(steps: list[tuple[str, int, int]]) -> None:
    cache = cache_of(ttl=10.0, max_bytes=4000)
    now, stored = NOW, {}
    for step, number, amount in steps:
        if step == "store":
            cache.store(q(number), (number, now), amount, now)
            stored[number] = now
        elif step == "get":
            found = cache.get(q(number), now)
            assert found is None or (found == (number, stored[number]) and now - stored[number] < 10.0)
        elif step == "clear":
            cache.clear("model")
        else:
            now += amount / 100
        assert 0 <= cache.size <= 4000
        assert (cache.size == 0) == (len(cache) == 0)
