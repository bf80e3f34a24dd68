"""Which runs stay in the loop, and how large a batch is worth to be."""

import random
from collections.abc import Callable

import pytest

from podpair.inference.core.run_times import RunTimes


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


def test_one_slow_run_changes_nothing_but_many_do_and_so_do_quick_ones() -> None:
    times = RunTimes(0.001)
    times.seed(1, 0.0001)
    times.observe(1, 5.0)
    assert times.is_short(1)
    for _ in range(20):
        times.observe(1, 5.0)
    assert not times.is_short(1)
    for _ in range(100):
        times.observe(1, 0.0001)
    assert times.is_short(1)


def test_without_a_limit_nothing_is_short() -> None:
    times = RunTimes(0)
    times.seed(1, 0.0)
    assert not times.is_short(1)


def learn(cost: Callable[[int], float], largest: int = 64, runs: int = 2000, times: RunTimes | None = None) -> RunTimes:
    """What is learnt by running the largest batch that is held worthwhile, time and again."""
    times = times or RunTimes(0.0002, largest)
    for _ in range(runs):
        rows = times.worthwhile
        times.observe(rows, cost(rows))
    return times


@pytest.mark.parametrize(
    ("cost", "worthwhile"),
    [
        # Mostly the call itself, as for a small model: as large as may be.
        (lambda rows: 0.000_01 + rows * 1e-7, 64),
        # A convolutional model on a CPU: 4.5 ms alone, 4.2 ms in a pair, then dearer. Both would wait for so little.
        (lambda rows: 0.0045 if rows == 1 else rows * (0.0042 if rows == 2 else 0.0055), 1),
        # A pair saves a fifth, four cost as much as two.
        (lambda rows: 0.005 if rows == 1 else rows * 0.004, 2),
        # No size is cheaper: alone.
        (lambda rows: rows * 0.004, 1),
        # Cheaper up to 8.
        (lambda rows: 0.001 * max(rows, 8), 8),
    ],
)
def test_a_batch_becomes_as_large_as_pays(cost: Callable[[int], float], worthwhile: int) -> None:
    times = learn(cost)
    found = [learn(cost, runs=1, times=times).worthwhile for _ in range(500)]
    # Now and then the next size is looked at again.
    assert sum(rows == worthwhile for rows in found) > 450


@pytest.mark.parametrize("noise", [10, 3])
@pytest.mark.parametrize(
    ("cost", "worthwhile"),
    [
        (lambda rows: rows * 0.004, 1),
        (lambda rows: 0.000_01 + rows * 1e-7, 64),
        (lambda rows: 0.001 * max(rows, 8), 8),
    ],
)
def test_other_work_on_the_machine_makes_no_batch_look_cheap(
    cost: Callable[[int], float], worthwhile: int, noise: float
) -> None:
    for seed in range(5):
        draw = random.Random(seed)
        times = RunTimes(0.0002, 64)
        found = []
        for _ in range(6000):
            rows = times.worthwhile
            found.append(rows)
            times.observe(rows, cost(rows) * (1 + draw.expovariate(noise)))
        assert sum(rows == worthwhile for rows in found[500:]) > 0.75 * len(found[500:])


def test_what_changes_is_learnt_anew() -> None:
    times = learn(lambda rows: rows * 0.004)
    assert times.worthwhile == 1
    learn(lambda rows: 0.004 + rows * 0.0001, times=times, runs=5000)
    assert times.worthwhile > 8


def test_a_batch_is_never_larger_than_the_largest() -> None:
    assert learn(lambda rows: 0.001, largest=24).worthwhile == 24
    assert learn(lambda rows: 0.001, largest=1).worthwhile == 1
