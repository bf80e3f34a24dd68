"""The load of one resource's pods, from what each told of itself: sessions, requests in flight, the model's latency.

What isn't known is None, and an autoscaler then holds the replicas. A pod that can't be asked counts with what it told last,
for a while: to leave it out would look like less load. Latency is the 95th percentile over the last minute. Without a request
in that minute, and none in flight, it is 0: nobody waits, and pods need not be kept for that. Requests in flight of which none
ends are no such thing: then it isn't known.
"""

from collections.abc import Mapping
from typing import NamedTuple

from podpair.operator.core.latency import Buckets, increase, quantile, summed
from podpair.operator.core.measures import Measures

WINDOW = 60.0  # seconds that latency is taken over, and that a pod's last word counts
_OLDEST = 300.0  # seconds after which even the second sample is forgotten
_QUANTILE = 0.95
_SILENT = 3  # samples of a pod after which its model is taken for one that tells no latency


class PodLoad(NamedTuple):
    """What one pod tells of itself. `latency` None: it tells no histogram."""

    sessions: int
    inflight: int
    latency: Buckets | None


class LoadSeen(NamedTuple):
    """What a resource's conditions go by."""

    sessions: int | None = None
    """Sessions with a client connected, in all pods; None: not known."""
    without_latency: bool = False
    """Some pod's model has never told its latency, though the pod was asked several times: it is no podpair-inference, or is
    asked over gRPC."""


class Window:
    """The last samples of one resource's pods. Times are seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[float, PodLoad]]] = {}
        self._silent: dict[str, int] = {}  # samples without latency, of pods that have never told any; once told: -1

    def take(self, now: float, found: Mapping[str, PodLoad | None]) -> None:
        """What each pod that there is told just now; None: it couldn't be asked. Pods that aren't there are forgotten."""
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

    def measures(self, now: float) -> Measures:
        """What is known of all pods together. Without a pod nothing is."""
        last = [samples[-1] for samples in self._samples.values() if samples]
        if not last or len(last) < len(self._samples) or any(when < now - WINDOW for when, _ in last):
            return Measures()
        inflight = sum(load.inflight for _, load in last)
        return Measures(
            latency=self._latency(inflight), sessions=sum(load.sessions for _, load in last), inflight=inflight
        )

    @property
    def without_latency(self) -> bool:
        """Whether there is a pod whose model has never told its latency; a busy one may be silent for a moment."""
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
        told = quantile(_QUANTILE, summed(increases))
        return 0.0 if told is None and inflight == 0 else told
