"""Which runs stay in the loop."""

from podpair.inference.core.timing import RunTimes


def test_a_size_that_was_never_timed_goes_to_a_thread() -> None:
    times = RunTimes(0.001)
    times.seed(1, 0.0001)
    assert times.is_short(1)
    assert not times.is_short(2)


def test_sizes_are_told_apart_by_powers_of_two() -> None:
    times = RunTimes(0.001)
    times.seed(7, 0.0001)
    assert times.is_short(4)
    assert not times.is_short(8)


def test_one_slow_run_changes_nothing_but_many_do_and_time_forgives() -> None:
    times = RunTimes(0.001)
    times.seed(1, 0.0001)
    times.observe(1, 5.0)
    assert times.is_short(1)
    for _ in range(20):
        times.observe(1, 5.0)
    assert not times.is_short(1)
    assert any(times.is_short(1) for _ in range(1000))


def test_without_a_limit_nothing_is_short() -> None:
    times = RunTimes(0)
    times.seed(1, 0.0)
    assert not times.is_short(1)
