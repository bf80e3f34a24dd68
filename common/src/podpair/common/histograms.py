"""Prometheus histograms of what happens with every request: the client library's own costs more than a whole answer.

Observations are counted here and converted to Prometheus' form when they are scraped.

Invariant: one thread observes; another may scrape.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Distribution:
    """The values of one histogram with one set of labels. bounds: the upper ends of its buckets; the last bucket has none."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Add values."""
        bounds, counts, total = self.bounds, self.counts, 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.total += total

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """Yield Prometheus' cumulative buckets."""
        count = 0
        for bound, here in zip((*map(str, map(float, self.bounds)), "+Inf"), list(self.counts), strict=True):
            count += here
            yield bound, count


class Histograms(Collector):
    """The distributions of one metric, by the values of its labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name = name
        self.text = text
        self.label_names = tuple(labels)
        self._bounds = tuple(bounds)
        self._found: dict[tuple[str, ...], Distribution] = {}

    def labels(self, *values: str) -> Distribution:
        """Return the distribution of these label values."""
        found = self._found.get(values)
        if found is None:
            found = self._found[values] = Distribution(self._bounds)
        return found

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family; called by the registry."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.label_names)
        for values, distribution in list(self._found.items()):
            family.add_metric(values, list(distribution.cumulative()), distribution.total)
        yield family
