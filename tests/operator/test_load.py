"""What autoscalers go by, from what pods told: by itself, on a clock of its own."""

import math

import pytest

from podpair.operator.core.latency import increase, quantile
from podpair.operator.core.load import PodLoad, Window
from podpair.operator.core.measures import Measures
from podpair.operator.scraping.reading import read_load

INF = math.inf


@pytest.mark.parametrize(
    ("share", "buckets", "told"),
    [
        (0.95, {0.1: 100, 0.5: 100, INF: 100}, 0.095),
        (0.5, {0.1: 50, 0.5: 100, INF: 100}, 0.1),
        (0.95, {0.1: 50, 0.5: 100, INF: 100}, 0.1 + 0.4 * 45 / 50),
        (0.95, {0.1: 0, 0.5: 10, INF: 100}, 0.5),  # longer than any bound
        (0.95, {0.1: 0, INF: 0}, None),
        (0.95, {INF: 3}, None),
        (0.95, {}, None),
    ],
)
def test_quantiles_are_those_of_histogram_quantile(share: float, buckets: dict[float, float], told: float) -> None:
    found = quantile(share, buckets)
    assert found == (None if told is None else pytest.approx(told))


def test_a_process_that_began_anew_counts_from_nothing() -> None:
    assert increase({0.1: 5, INF: 9}, {0.1: 7, INF: 12}) == {0.1: 2, INF: 3}
    assert increase({0.1: 5, INF: 9}, {0.1: 1, INF: 2}) == {0.1: 1, INF: 2}


def load(sessions: int = 1, inflight: int = 0, fast: float = 0, slow: float = 0) -> PodLoad:
    return PodLoad(sessions, inflight, {0.1: fast, 0.5: fast + slow, INF: fast + slow})


def test_pods_are_added_up() -> None:
    window = Window()
    window.take(0, {"a": load(3, 1), "b": load(4, 2)})
    assert window.measures(0) == Measures(sessions=7, inflight=3)


def test_latency_is_of_the_last_minute_over_all_pods() -> None:
    window = Window()
    window.take(0, {"a": load(fast=1000), "b": load(slow=1000)})
    window.take(30, {"a": load(fast=1050), "b": load(slow=1050)})
    assert window.measures(30).latency == pytest.approx(0.1 + 0.4 * 45 / 50)
    window.take(60, {"a": load(fast=1100), "b": load(slow=1050)})
    window.take(90, {"a": load(fast=1150), "b": load(slow=1050)})
    assert window.measures(90).latency == pytest.approx(0.095)


def test_no_requests_are_no_latency_and_requests_that_do_not_end_are_an_unknown_one() -> None:
    window = Window()
    window.take(0, {"a": load(fast=9)})
    assert window.measures(0).latency is None  # seen once
    window.take(15, {"a": load(fast=9)})
    assert window.measures(15).latency == 0.0
    window.take(30, {"a": load(inflight=1, fast=9)})
    assert window.measures(30).latency is None


def test_a_pod_that_tells_no_latency_makes_it_unknown() -> None:
    window = Window()
    for now in (0, 15):
        window.take(now, {"a": load(fast=now), "b": PodLoad(1, 0, None)})
    assert window.measures(15) == Measures(sessions=2, inflight=0)


def test_a_pod_that_can_t_be_asked_counts_for_a_while_and_then_nothing_is_known() -> None:
    window = Window()
    window.take(0, {"a": load(3), "b": load(4)})
    window.take(15, {"a": load(3), "b": None})
    assert window.measures(15).sessions == 7
    window.take(75, {"a": load(3), "b": None})
    assert window.measures(75) == Measures()
    window.take(76, {"a": load(3)})  # it is gone
    assert window.measures(76).sessions == 3


def test_a_pod_that_was_never_asked_makes_all_unknown_as_does_none() -> None:
    window = Window()
    assert window.measures(0) == Measures()
    window.take(0, {"a": load(), "b": None})
    assert window.measures(0) == Measures()
    window.take(1, {})
    assert window.measures(1) == Measures()


def test_other_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="podpair_gateway_sessions"):
        read_load("up 1\n")
