"""The load of one resource's pods, from what each exports: sessions, requests in flight, the model's latency.

What isn't known is None, and an autoscaler then holds the replicas. A pod that can't be asked counts with its last values
for a while: leaving it out would look like less load. Latency is the 95th percentile over the last minute. Without a request
in that minute, and none in flight, it is 0: nobody waits, and no pods are needed for that. If requests are in flight and none
ends, it isn't known.
"""

from collections.abc import Mapping
from typing import NamedTuple

from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.core.latency import Buckets, increase, quantile, summed

WINDOW = 60.0  # seconds of the latency window, and for which a pod's last sample counts
_OLDEST = 300.0  # seconds after which even the second sample is forgotten
_QUANTILE = 0.95
_SILENT = 3  # samples of a pod after which its model counts as one that exports no latency


class PodLoad(NamedTuple):
    """What one pod exports. `latency` None: it has no histogram; `waiting` None: it has no queue of RabbitMQ, or doesn't know."""

    sessions: int
    inflight: int
    latency: Buckets | None
    waiting: int | None = None
    """Messages that wait in the queue: all pods tell of the same one."""
    amqp_inflight: int = 0


class LoadState(NamedTuple):
    """The load that a resource's conditions are computed from."""

    sessions: int | None = None
    """Sessions with a client connected, in all pods; None: not known."""
    without_latency: bool = False
    """Some pod's model has never exported its latency, though the pod was asked several times: it is no podpair-inference, or is
    asked over gRPC."""


class Window:
    """The last samples of one resource's pods. Times are seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[float, PodLoad]]] = {}
        self._silent: dict[
            str, int
        ] = {}  # samples without latency, of pods that have never exported any; once exported: -1

    def add(self, now: float, found: Mapping[str, PodLoad | None]) -> None:
        """Add a sample of each pod; None: it couldn't be asked. Pods that aren't in `found` are forgotten."""
        self._samples = {pod: self._samples.get(pod, []) for pod in found}
        self._silent = {pod: count for pod, count in self._silent.items() if pod in found}
        for pod, load in found.items():
            samples = self._samples[pod]
            if load is not None:
                samples.append((now, load))
                silent = self._silent.get(pod, 0)
                self._silent[pod] = -1 if load.latency is not None or silent < 0 else silent + 1
            while len(samples) > 2 and samples[1][0] <= now - WINDOW:
                samples.pop(0)
            while samples and samples[0][0] < now - _OLDEST:
                samples.pop(0)

    def values(self, now: float) -> MetricValues:
        """Return what is known of all pods together. Without a pod nothing is."""
        last = [samples[-1] for samples in self._samples.values() if samples]
        if not last or len(last) < len(self._samples) or any(when < now - WINDOW for when, _ in last):
            return MetricValues()
        inflight = sum(load.inflight for _, load in last)
        waiting = [load.waiting for _, load in last if load.waiting is not None]
        return MetricValues(
            latency=self._latency(inflight),
            sessions=sum(load.sessions for _, load in last),
            inflight=inflight,
            amqp_lag=max(waiting) + sum(load.amqp_inflight for _, load in last) if waiting else None,
        )

    def loads(self, now: float) -> dict[str, PodLoad]:
        """Return the last load of each pod that was asked lately."""
        found = {pod: samples[-1] for pod, samples in self._samples.items() if samples}
        return {pod: load for pod, (when, load) in found.items() if when >= now - WINDOW}

    @property
    def without_latency(self) -> bool:
        """Whether there is a pod whose model has never exported its latency; a busy one may be silent for a moment."""
        return any(count >= _SILENT for count in self._silent.values())

    def _latency(self, inflight: int) -> float | None:
        increases = []
        for samples in self._samples.values():
            first, last = samples[0][1].latency, samples[-1][1].latency
            if last is None:
                return None
            if len(samples) > 1:  # of a pod that was seen once nothing is known, and it is new
                increases.append(increase(first or {}, last))
        if not increases:
            return None
        latency = quantile(_QUANTILE, summed(increases))
        return 0.0 if latency is None and inflight == 0 else latency
