"""Parses a gateway's /metrics: Prometheus' text format in, one pod's load out."""

import math

from prometheus_client.parser import text_string_to_metric_families

from podpair.operator.core.latency import summed
from podpair.operator.core.load import PodLoad

_SESSIONS = "podpair_gateway_sessions"
_INFLIGHT = ("podpair_gateway_direct_in_flight", "podpair_gateway_queue_in_flight")
_LATENCY = "inference_request_duration_seconds"
_WAITING = "podpair_gateway_amqp_queue_messages"
_AMQP_INFLIGHT = "podpair_gateway_amqp_in_flight"
_NAMES = (_SESSIONS, *_INFLIGHT, _WAITING, _AMQP_INFLIGHT, _LATENCY)
_MOST_LINES = 10_000  # of the metrics that are read; the parser takes long for one


def read_load(text: str) -> PodLoad:
    """Parse the load of a gateway. Raises ValueError if the text isn't a gateway's metrics."""
    families = {family.name: family for family in text_string_to_metric_families(_wanted(text))}
    missing = [name for name in (_SESSIONS, *_INFLIGHT) if name not in families]
    if missing:
        raise ValueError(f"there is no {missing[0]} among the metrics")

    def total(name: str) -> int:
        return round(sum(sample.value for sample in families[name].samples))

    latency = None
    if _LATENCY in families:
        buckets = [sample for sample in families[_LATENCY].samples if sample.name.endswith("_bucket")]
        # Of a model that nobody asked yet there are no samples; the family is there none the less.
        latency = summed({float(one.labels["le"]): one.value} for one in buckets) or {math.inf: 0.0}
    # A gateway that takes nothing from RabbitMQ, or doesn't know how much there is, has no sample.
    waits = _WAITING in families and bool(families[_WAITING].samples)
    inflight = sum(total(name) for name in _INFLIGHT)
    if not waits:
        return PodLoad(total(_SESSIONS), inflight, latency)
    return PodLoad(total(_SESSIONS), inflight, latency, total(_WAITING), total(_AMQP_INFLIGHT))


def _wanted(text: str) -> str:
    """Return the lines of the metrics that are read: there are many others, and the parser is slow. Raises ValueError."""
    lines = [line for line in text.split("\n") if line.removeprefix("# TYPE ").startswith(_NAMES)]
    if len(lines) > _MOST_LINES:
        raise ValueError(f"more than {_MOST_LINES} lines of metrics")
    return "\n".join(lines) + "\n"
