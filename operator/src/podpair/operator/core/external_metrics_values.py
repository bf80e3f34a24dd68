"""The values that autoscalers read, and their names in `external.metrics.k8s.io`. Unknown is None, never 0."""

from dataclasses import dataclass, replace

LAG = "podpair_lag"
LATENCY = "podpair_latency_seconds"
SESSIONS = "podpair_sessions"
INFLIGHT = "podpair_inflight"
NAMES = (LAG, LATENCY, SESSIONS, INFLIGHT)


@dataclass(frozen=True)
class MetricValues:
    """What is known of one resource now, over all its pods."""

    lag: int | None = None
    """Queued requests that wait."""
    latency: float | None = None
    """95th percentile of the model's latency, in seconds."""
    sessions: int | None = None
    """Sessions with a client connected."""
    inflight: int | None = None
    """Requests in flight."""
    amqp_lag: int | None = None
    """Messages in the queue of RabbitMQ that aren't finished, if requests are taken from one."""

    def with_lag(self, kafka: int | None, source: str | None) -> "MetricValues":
        """Return these values with the lag of where requests come from: Kafka's topic, and `source`, as `spec.amqp` has it."""
        if source is None:
            return replace(self, lag=kafka)
        if source == "amqp":
            return replace(self, lag=self.amqp_lag)
        known = kafka is not None and self.amqp_lag is not None
        return replace(self, lag=(kafka or 0) + (self.amqp_lag or 0) if known else None)

    def value(self, metric: str) -> float | None:
        """Return the value of a metric by its name in the API. Raises KeyError if there is no such metric."""
        return {LAG: self.lag, LATENCY: self.latency, SESSIONS: self.sessions, INFLIGHT: self.inflight}[metric]
