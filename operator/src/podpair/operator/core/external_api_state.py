"""Who serves `external.metrics.k8s.io` in this cluster, for the condition Scaling.

There is one such API in a cluster. If KEDA or a metrics adapter owns it, the operator leaves it alone, and a
HorizontalPodAutoscaler by lag, latency, sessions or in-flight requests reads nothing.
"""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why the operator serves the API or doesn't."""

    SERVED = "ExternalMetricsServed"
    OFF = "ExternalMetricsOff"  # the operator's settings say so
    OWNED_BY_OTHER = "ExternalMetricsOwnedByOther"  # the APIService is someone else's
    NOT_YET = "ExternalMetricsNotYetServed"  # starting, or the API server couldn't be asked


@dataclass(frozen=True)
class ExternalApiState:
    """The state of the API."""

    served: bool
    """By this operator."""
    reason: str
    """One of `Reason`."""
    message: str
    """What, and what to do: for people."""
