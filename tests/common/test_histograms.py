"""Histograms are what prometheus_client's own would be of the same values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from podpair.common.histograms import Histograms

BOUNDS = (0.001, 0.5, 1, 30)
VALUES = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100)))


def counts(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_sum" not in line and "_created" not in line]


@given(one_by_one=VALUES, at_once=VALUES)
def test_they_are_exposed_as_prometheus_client_s(one_by_one: list[float], at_once: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    own = Histograms("seconds", "Text", ["model", "stage"], BOUNDS)
    ours.register(own)
    other = Histogram("seconds", "Text", ["model", "stage"], buckets=BOUNDS, registry=theirs)
    distribution, child = own.labels("a", "b"), other.labels("a", "b")
    for value in one_by_one:
        distribution.observe(value)
    distribution.observe_all(at_once)
    for value in (*one_by_one, *at_once):
        child.observe(value)
    assert counts(ours) == counts(theirs)
    assert distribution.total == pytest.approx(child._sum.get())


def test_labels_have_their_own() -> None:
    histograms = Histograms("seconds", "Text", ["model"], BOUNDS)
    histograms.labels("a").observe_all([0.1, 40])
    assert histograms.labels("a") is histograms.labels("a")
    assert histograms.labels("b").counts == [0] * 5
    assert list(histograms.labels("a").cumulative()) == [("0.001", 0), ("0.5", 1), ("1.0", 1), ("30.0", 1), ("+Inf", 2)]
