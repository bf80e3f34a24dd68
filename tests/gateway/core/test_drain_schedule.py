"""Clients that are sent away are spread evenly, and few are not kept waiting."""

import random
from collections import Counter

import pytest

from podpair.gateway.core.drain_schedule import departure_times


@pytest.mark.parametrize("count", [0, 1, 99, 3_000, 10_000])
def test_no_second_sees_more_than_twice_the_mean(count: int) -> None:
    times = departure_times(count, 30.0, random.Random(1).random)
    assert len(times) == count
    assert times == sorted(times)
    assert all(0 <= at <= 30 for at in times)
    whole = Counter(int(at) for at in times)
    if count >= 3_000:
        assert max(whole.values()) <= 2 * count / 30


def test_few_leave_soon() -> None:
    assert departure_times(10, 30.0, random.Random(1).random)[-1] <= 0.1


def test_no_time_at_all() -> None:
    assert departure_times(3, 0.0, random.Random(1).random) == [0.0, 0.0, 0.0]
