"""The gateway's Prometheus metrics: one for each decision, all of them here."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from podpair.common.histograms import Histograms
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.quotas import Forbidden, Limited

INFERENCE_LATENCY = "inference_request_duration_seconds"
"""The histogram of the inference container that /metrics passes on: autoscalers go by it."""
_MOST_READINGS = 256  # samples of one metric whose label's values come and go
_LATENCY = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


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

    def __init__(self, name: str, text: str, label: str | None = None) -> None:
        self.name = name
        self.text = text
        self.label = label
        self._counts: dict[str, Tallied] = {}
        self._only = self.labels("") if label is None else None

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

    def __init__(self, name: str, text: str, label: str) -> None:
        self.name = name
        self.text = text
        self.label = label
        self.source: Callable[[], Mapping[int, float]] = dict

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Collect the samples for the registry. Of very many values the rest is summed up as `other`."""
        family = GaugeMetricFamily(self.name, self.text, labels=[self.label])
        found = sorted(self.source().items())
        for value, reading in found[:_MOST_READINGS]:
            family.add_metric([str(value)], reading)
        if rest := found[_MOST_READINGS:]:
            family.add_metric(["other"], sum(reading for _, reading in rest))
        return [family]


_NAME = "podpair_gateway_"


class Metrics:
    """The gateway's metrics, in a registry of their own so that two gateways fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._add_public_port(self.registry)
        self._add_sessions(self.registry)
        self._add_requests(self.registry)
        self._add_kafka(self.registry)
        self._add_results(self.registry)
        self._add_queue(self.registry)
        for metric in vars(self).values():
            if isinstance(metric, Histograms | Tally | Readings):
                self.registry.register(metric)

    def table(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        """Return each metric of the gateway: name as it is exposed, kind, labels, description."""
        rows: list[tuple[str, str, tuple[str, ...], str]] = []
        for metric in vars(self).values():
            if isinstance(metric, Tally):
                rows.append((f"{metric.name}_total", "counter", (metric.label,) if metric.label else (), metric.text))
            elif isinstance(metric, Histograms):
                rows.append((metric.name, "histogram", metric.label_names, metric.text))
            elif isinstance(metric, Readings):
                rows.append((metric.name, "gauge", (metric.label,), metric.text))
            elif isinstance(metric, Counter | Gauge):
                name = f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
                rows.append((name, metric._type, tuple(metric._labelnames), metric._documentation))
        return rows

    def reject(self, stage: Literal["connection", "request"], fault: Fault) -> None:
        """Count a connection or a request that `fault` refuses, by the limit that it names, else by its code."""
        self.rejected.labels(stage, fault.limit if isinstance(fault, Limited | Forbidden) else fault.code).inc()

    def fan_out(self, records: int, size: int, delivered: int, duplicates: int) -> None:
        """Count a batch of one results partition that was passed on."""
        self.read.inc(records)
        self.read_bytes.inc(size)
        self.delivered.inc(delivered)
        if duplicates:
            self.duplicates.inc(duplicates)

    def _add_public_port(self, registry: CollectorRegistry) -> None:
        """Add the metrics of the public port: connections, tokens, what is rejected."""
        self.tls_reloads = Counter(
            f"{_NAME}tls_reloads", "Reloads of the public port's certificate after its files have changed", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.connections = Gauge(
            f"{_NAME}connections", "Connections of the public port, by what they wait for or have become",
            ["state"], registry=registry,
        )  # fmt: skip
        self.connections_closed = Counter(
            f"{_NAME}connections_closed", "Connections closed in a phase whose time was over, or for newer ones", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.connections_refused = Counter(
            f"{_NAME}connections_refused", "Connections refused for want of room or of file descriptors", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.rejected = Counter(
            f"{_NAME}rejected",
            "Connections and calls rejected before they began (stage `connection`), and requests of sessions (`request`); "
            "reason: the limit that was reached, else the error code",
            ["stage", "reason"],
            registry=registry,
        )
        self.jwks_fetches = Counter(
            f"{_NAME}jwks_fetches", "Fetches of the issuer's keys", ["outcome"], registry=registry
        )
        self.auth_ready = Gauge(
            f"{_NAME}auth_ready", "1 while tokens can be verified, 0 while the issuer's keys are missing or too old",
            registry=registry,
        )  # fmt: skip
        self.refreshed = Counter(
            f"{_NAME}tokens_refreshed",
            "Newer tokens that clients sent for their connection",
            ["outcome"],
            registry=registry,
        )
        self.frames = Counter(f"{_NAME}frames_invalid", "Frames that are no message of the protocol", registry=registry)

    def _add_sessions(self, registry: CollectorRegistry) -> None:
        """Add the metrics of sessions and their clients."""
        self.sessions = Gauge(f"{_NAME}sessions", "Sessions with a client connected", registry=registry)
        self.slow = Gauge(f"{_NAME}slow_clients", "Clients that have events waiting for them", registry=registry)
        self.opened = Counter(
            f"{_NAME}sessions_opened", "Connections made", ["transport", "resumed"], registry=registry
        )
        self.closed = Counter(f"{_NAME}sessions_closed", "Connections ended", ["reason"], registry=registry)
        self.slow_consumer = Counter(
            f"{_NAME}slow_consumer", "Bursts that a client could not take at once", registry=registry
        )
        self.gaps = Counter(f"{_NAME}gaps", "Gaps declared to clients", ["reason"], registry=registry)
        self.resumes = Counter(
            f"{_NAME}resumes", "Resumes, by where the events were found", ["source"], registry=registry
        )

    def _add_requests(self, registry: CollectorRegistry) -> None:
        """Add the metrics of requests and the model."""
        self.requests = Tally(f"{_NAME}requests", "Requests accepted", "route")
        self.spilled = Counter(
            f"{_NAME}spilled", "Direct requests that went on through Kafka", ["reason"], registry=registry
        )
        self.cancellations = Counter(
            f"{_NAME}cancellations",
            "Cancellations of queued requests, by where they were published: in the request's partition, "
            "in all of them (broadcast), or nowhere (too_many)",
            ["scope"], registry=registry,
        )  # fmt: skip
        self.repeated = Counter(
            f"{_NAME}requests_repeated", "Requests whose id had ended lately, given the same answer", ["route"],
            registry=registry,
        )  # fmt: skip
        self.completed = Tally(f"{_NAME}requests_completed", "Terminal events, by outcome", "outcome")
        self.direct = Gauge(f"{_NAME}direct_in_flight", "Direct requests that the model has", registry=registry)
        self.request_duration = Histograms(
            f"{_NAME}request_duration_seconds", "From infer to the answer of a direct request", ["model"], _LATENCY
        )
        self.upstream_calls = Tally(
            f"{_NAME}upstream_calls", "Calls to the model: of one request, of a batch, or a stream", "mode"
        )
        self.upstream_rows = Tally(f"{_NAME}upstream_rows", "Rows of batches")
        self.batch_splits = Counter(
            f"{_NAME}batch_splits", "Batches that failed and were retried in halves", registry=registry
        )
        self.ready = Gauge(f"{_NAME}inference_ready", "1 while the inference container answers", registry=registry)

    def _add_kafka(self, registry: CollectorRegistry) -> None:
        """Add the metrics of Kafka clients and topics."""
        self.kafka_ready = Gauge(f"{_NAME}kafka_ready", "1 while the broker answers", registry=registry)
        self.client_restarts = Counter(
            f"{_NAME}kafka_client_restarts",
            "Kafka clients that were dead or stuck, or left records unread (reason `stalled`), and were replaced",
            ["client", "reason"],
            registry=registry,
        )  # fmt: skip
        self.topics_ready = Gauge(
            f"{_NAME}topics_ready",
            "1 while the topics are there, and what is read is what they are now",
            registry=registry,
        )
        self.topic_changes = Counter(
            f"{_NAME}topic_changes", "Changes of a topic from outside: deleted, recreated, widened …", ["topic", "change"],
            registry=registry,
        )  # fmt: skip
        self.produced = Counter(
            f"{_NAME}records_written", "Records written to Kafka, by outcome", ["topic", "outcome"], registry=registry
        )

    def _add_results(self, registry: CollectorRegistry) -> None:
        """Add the metrics of the results topic."""
        self.read = Tally(f"{_NAME}results_records_read", "Records read from the results topic")
        self.read_bytes = Tally(f"{_NAME}results_bytes_read", "Bytes of values read from the results topic")
        self.delivered = Tally(f"{_NAME}results_records_delivered", "Records written to clients")
        self.misplaced = Counter(
            f"{_NAME}results_records_misplaced", "Records outside the home partition of their key; keyless: without one",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.malformed = Counter(
            f"{_NAME}results_records_malformed", "Records read for a client whose value is not what they say that it is",
            ["type"], registry=registry,
        )  # fmt: skip
        self.duplicates = Counter(
            f"{_NAME}results_duplicates_dropped", "Second answers to a request, dropped", registry=registry
        )
        self.homes = Gauge(f"{_NAME}home_partitions", "Results partitions that are read here", registry=registry)

    def _add_queue(self, registry: CollectorRegistry) -> None:
        """Add the metrics of queued requests."""
        self.owned = Gauge(f"{_NAME}request_partitions", "Request partitions of this group member", registry=registry)
        self.lag = Readings(
            f"{_NAME}requests_lag",
            "Queued requests that are not finished, by partition, of those of this group member; as of 5 s ago at most",
            "partition",
        )
        self.paused = Gauge(f"{_NAME}requests_paused", "1 while request partitions are paused", registry=registry)
        self.worked = Tally(f"{_NAME}queue_requests", "Queued requests finished here, by outcome", "outcome")
        self.attempts = Counter(
            f"{_NAME}queue_retries", "Further attempts at queued requests", ["reason"], registry=registry
        )
        self.dead = Counter(f"{_NAME}dead_letters", "Queued requests given up", registry=registry)
        self.transactions = Counter(
            f"{_NAME}transactions", "Transactions of answers and request offsets", ["outcome"], registry=registry
        )
        self.working = Gauge(f"{_NAME}queue_in_flight", "Queued requests that are worked on", registry=registry)
        self.rebalances = Counter(
            f"{_NAME}rebalances", "Changes of the request partitions", ["event"], registry=registry
        )
