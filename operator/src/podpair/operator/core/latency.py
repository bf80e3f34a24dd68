"""Latency from histograms: the quantile of what was observed between two samples, as PromQL's histogram_quantile computes it.

`Buckets` are cumulative: upper bound (seconds, inf for the last) → observations that were not longer.
"""

import math
from collections.abc import Iterable, Mapping

Buckets = Mapping[float, float]


def increase(before: Buckets, after: Buckets) -> dict[float, float]:
    """Return what was observed between two samples of one process. A lower count means that it restarted from 0."""
    begun_anew = after.get(math.inf, 0.0) < before.get(math.inf, 0.0)
    return {bound: count - (0.0 if begun_anew else before.get(bound, 0.0)) for bound, count in after.items()}


def summed(histograms: Iterable[Buckets]) -> dict[float, float]:
    """Several histograms with the same bounds as one."""
    total: dict[float, float] = {}
    for histogram in histograms:
        for bound, count in histogram.items():
            total[bound] = total.get(bound, 0.0) + count
    return total


def quantile(share: float, buckets: Buckets) -> float | None:
    """Return the latency that `share` of the observations don't exceed, interpolated within its bucket; None: no observations.

    Above the largest finite bound the result is that bound: a histogram knows no more.
    """
    bounds = sorted(buckets)
    total = buckets.get(math.inf, 0.0)
    if total <= 0 or len(bounds) < 2:
        return None
    rank = share * total
    at = next(i for i, bound in enumerate(bounds) if buckets[bound] >= rank)
    if bounds[at] == math.inf:
        return bounds[-2]
    low, below = (bounds[at - 1], buckets[bounds[at - 1]]) if at else (0.0, 0.0)
    within = buckets[bounds[at]] - below
    return low + (bounds[at] - low) * ((rank - below) / within if within > 0 else 1.0)
