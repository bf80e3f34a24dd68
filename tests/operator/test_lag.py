"""Lag by itself: end − max(committed, log start), and unknown where anything is."""

import pytest

from podpair.operator.core.lag import Log, partition_lag, total_lag


@pytest.mark.parametrize(
    ("log", "committed", "lag"),
    [
        (Log(0, 10), 4, 6),
        (Log(0, 10), 10, 0),
        (Log(0, 0), None, 0),
        (Log(3, 10), None, 7),  # nothing committed: a gateway begins at the log's start
        (Log(8, 10), 4, 2),  # retention has taken away what was committed to
        (Log(0, 10), 25, 10),  # a topic made anew: a gateway begins again
        (Log(10, 10), 4, 0),
    ],
)
def test_a_partition(log: Log, committed: int | None, lag: int) -> None:
    assert partition_lag(log, committed) == lag


def test_the_sum_is_unknown_while_a_part_is() -> None:
    logs = {0: Log(0, 5), 1: Log(2, 4)}
    assert total_lag(logs, {0: 1, 1: None}, range(2)) == 4 + 2
    assert total_lag(logs, {0: 1}, range(2)) is None
    assert total_lag({0: Log(0, 5)}, {0: 1, 1: 2}, range(2)) is None
    assert total_lag({}, {}, []) is None
