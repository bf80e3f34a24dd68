"""Kinds of metrics that the client library doesn't have: cheap counters of one thread, and readings of what comes and goes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_MOST_READINGS = 256  # samples of one metric whose label's values come and go


class Tallied:
    """The count of one value of a tally's label."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Count `amount` more."""
        self.value += amount


class Tally(Collector):
    """A counter that is counted on the loop's thread alone, for what is counted with each call to the model and each batch of
    records: the client library's own takes a lock for every change, and five calls in Python.
    """

    def __init__(self, name: str, text: str, label: str | None = None, values: Iterable[str] = ()) -> None:
        """`values`: those of the label that have a sample, 0, before anything is counted: a rate doesn't see a series begin."""
        self.name = name
        self.text = text
        self.label = label
        self._counts: dict[str, Tallied] = {}
        self._only = self.labels("") if label is None else None
        for value in values:
            self.labels(value)

    def labels(self, value: str) -> Tallied:
        """Return the count for this value of the label."""
        found = self._counts.get(value)
        if found is None:
            found = self._counts[value] = Tallied()
        return found

    def inc(self, amount: float = 1) -> None:
        """Count `amount` more, if there is no label."""
        assert self._only is not None  # noqa: S101 - it has none
        self._only.value += amount

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Collect the samples for the registry."""
        family = CounterMetricFamily(self.name, self.text, labels=[] if self.label is None else [self.label])
        for value, counted in self._counts.items():
            family.add_metric([] if self.label is None else [value], counted.value)
        return [family]


class Readings(Collector):
    """A gauge for things that come and go, read when Prometheus scrapes: what is gone has no sample any more."""

    def __init__(self, name: str, text: str, label: str, most: int = _MOST_READINGS) -> None:
        self.name = name
        self.text = text
        self.label = label
        self._most = most
        self.source: Callable[[], Mapping[int, float] | Mapping[str, float]] = dict

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Collect the samples for the registry. Of very many values the rest is summed up as `other`."""
        family = GaugeMetricFamily(self.name, self.text, labels=[self.label])
        found: list[tuple[Any, float]] = sorted(self.source().items())
        for value, reading in found[: self._most]:
            family.add_metric([str(value)], reading)
        if rest := found[self._most :]:
            family.add_metric(["other"], sum(reading for _, reading in rest))
        return [family]
