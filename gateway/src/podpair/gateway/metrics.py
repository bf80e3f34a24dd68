"""What the gateway tells Prometheus: a metric for each decision, all of them here."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

INFERENCE_LATENCY = "inference_latency_seconds"
"""The histogram of the inference container that /metrics passes on: autoscalers go by it."""
_LATENCY = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class Durations(Collector):
    """A histogram that takes many observations at once: the client library's own costs more than a request's whole answer."""

    def __init__(self, name: str, text: str, label: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.text = text
        self.label = label
        self._bounds = tuple(bounds)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, label: str, seconds: Iterable[float]) -> None:
        """Count durations under one value of the label."""
        counts = self._counts.get(label)
        if counts is None:
            counts = self._counts[label] = [0] * (len(self._bounds) + 1)
            self._sums[label] = 0.0
        bounds, total = self._bounds, 0.0
        for value in seconds:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self._sums[label] += total

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """What the registry asks for."""
        family = HistogramMetricFamily(self.name, self.text, labels=[self.label])
        for label, counts in self._counts.items():
            buckets, below = [], 0
            for bound, count in zip((*map(str, map(float, self._bounds)), "+Inf"), counts, strict=True):
                below += count
                buckets.append((bound, below))
            family.add_metric([label], buckets, self._sums[label])
        return [family]


class Tallied:
    """The count of one value of a tally's label."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Count so many more."""
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
        """What counts under this value of the label."""
        found = self._counts.get(value)
        if found is None:
            found = self._counts[value] = Tallied()
        return found

    def inc(self, amount: float = 1) -> None:
        """Count so many more, where it has no label."""
        assert self._only is not None  # noqa: S101 - it has none
        self._only.value += amount

    def collect(self) -> Iterable[CounterMetricFamily]:
        """What the registry asks for."""
        family = CounterMetricFamily(self.name, self.text, labels=[] if self.label is None else [self.label])
        for value, counted in self._counts.items():
            family.add_metric([] if self.label is None else [value], counted.value)
        return [family]


class Metrics:
    """The gateway's metrics, in a registry of their own so that two gateways fit in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        name = "podpair_gateway_"
        self.sessions = Gauge(f"{name}sessions", "Sessions with a client connected", registry=registry)
        self.slow = Gauge(f"{name}slow_clients", "Clients that have events waiting for them", registry=registry)
        self.certificates = Counter(
            f"{name}certificates", "Changes of the public port's certificate, by whether they were taken", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.connections = Gauge(
            f"{name}connections", "Connections of the public port, by kind: what they wait for, or what they became",
            ["kind"], registry=registry,
        )  # fmt: skip
        self.connections_closed = Counter(
            f"{name}connections_closed", "Connections closed in a phase whose time was over, or for newer ones", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.connections_refused = Counter(
            f"{name}connections_refused", "Connections refused for want of room or of file descriptors", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.opened = Counter(f"{name}sessions_opened", "Connections made", ["kind", "resumed"], registry=registry)
        self.closed = Counter(f"{name}sessions_closed", "Connections ended", ["reason"], registry=registry)
        self.refused = Counter(
            f"{name}refused", "Connections and calls refused before they began", ["code"], registry=registry
        )
        self.keys = Counter(
            f"{name}keys_fetched", "Times that the issuer was asked for its keys", ["outcome"], registry=registry
        )
        self.refreshed = Counter(
            f"{name}tokens_refreshed",
            "Newer tokens that clients sent for their connection",
            ["outcome"],
            registry=registry,
        )
        self.limited = Counter(
            f"{name}limited", "Connections and requests refused by a limit, a permission or their deadline", ["limit"],
            registry=registry,
        )  # fmt: skip
        self.requests = Tally(f"{name}requests", "Requests accepted", "route")
        self.spilled = Counter(
            f"{name}spilled", "Direct requests that went on through Kafka", ["reason"], registry=registry
        )
        self.cancellations = Counter(
            f"{name}cancellations", "Queued requests taken back: in their partition, looked for everywhere, or too many to be",
            ["how"], registry=registry,
        )  # fmt: skip
        self.repeated = Counter(
            f"{name}requests_repeated", "Requests whose id had ended lately, given the same answer", ["route"],
            registry=registry,
        )  # fmt: skip
        self.answers = Tally(f"{name}answers", "Terminal events, by outcome", "outcome")
        self.direct = Gauge(f"{name}direct_in_flight", "Direct requests that the model has", registry=registry)
        self.latency = Durations(
            f"{name}request_seconds", "From infer to the answer of a direct request", "model", _LATENCY
        )
        self.upstream_calls = Tally(
            f"{name}upstream_calls", "Calls to the model, shared by requests or for one alone", "kind"
        )
        self.upstream_rows = Tally(f"{name}upstream_rows", "Rows of shared calls")
        self.upstream_asked_again = Counter(
            f"{name}upstream_asked_again", "Shared calls that failed and were asked again in halves", registry=registry
        )
        self.frames = Counter(f"{name}frames_invalid", "Frames that are no message of the protocol", registry=registry)
        self.behind = Counter(f"{name}behind", "Bursts that a client could not take at once", registry=registry)
        self.gaps = Counter(f"{name}gaps", "Gaps declared to clients", ["reason"], registry=registry)
        self.resumed = Counter(
            f"{name}resumed", "Resumes, by where the events were found", ["source"], registry=registry
        )
        self.ready = Gauge(f"{name}inference_ready", "1 while the inference container answers", registry=registry)
        self.kafka_ready = Gauge(f"{name}kafka_ready", "1 while the broker answers", registry=registry)
        self.client_restarts = Counter(
            f"{name}kafka_client_restarts",
            "Kafka clients that were dead or stuck, or left records unread (reason `stalled`), and were replaced",
            ["client", "reason"],
            registry=registry,
        )  # fmt: skip
        self.topics_ready = Gauge(
            f"{name}topics_ready",
            "1 while the topics are there, and what is read is what they are now",
            registry=registry,
        )
        self.topic_changes = Counter(
            f"{name}topic_changes", "Changes of a topic from outside: deleted, recreated, widened …", ["topic", "change"],
            registry=registry,
        )  # fmt: skip

        self.read = Tally(f"{name}results_records_read", "Records read from the results topic")
        self.read_bytes = Tally(f"{name}results_bytes_read", "Bytes of values read from the results topic")
        self.delivered = Tally(f"{name}results_records_delivered", "Records written to clients")
        self.misplaced = Counter(
            f"{name}results_records_misplaced", "Records outside the home partition of the session that their key names",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.duplicates = Counter(
            f"{name}results_duplicates_dropped", "Second answers to a request, dropped", registry=registry
        )
        self.homes = Gauge(f"{name}home_partitions", "Results partitions that are read here", registry=registry)

        self.owned = Gauge(f"{name}request_partitions", "Request partitions of this group member", registry=registry)
        self.paused = Gauge(f"{name}requests_paused", "1 while request partitions are paused", registry=registry)
        self.worked = Tally(f"{name}queue_requests", "Queued requests finished here, by outcome", "outcome")
        self.attempts = Counter(
            f"{name}queue_retries", "Further attempts at queued requests", ["reason"], registry=registry
        )
        self.dead = Counter(f"{name}dead_letters", "Queued requests given up", registry=registry)
        self.transactions = Counter(
            f"{name}transactions", "Transactions of answers and request offsets", ["outcome"], registry=registry
        )
        self.working = Gauge(f"{name}queue_in_flight", "Queued requests that are worked on", registry=registry)
        self.produced = Counter(
            f"{name}records_written", "Records written to Kafka, by outcome", ["topic", "outcome"], registry=registry
        )
        self.rebalances = Counter(f"{name}rebalances", "Changes of the request partitions", ["kind"], registry=registry)

        for metric in vars(self).values():
            if isinstance(metric, Durations | Tally):
                registry.register(metric)

    def table(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        """Each metric of ours: name as it is exposed, kind, labels, what it is."""
        rows: list[tuple[str, str, tuple[str, ...], str]] = []
        for metric in vars(self).values():
            if isinstance(metric, Tally):
                rows.append((f"{metric.name}_total", "counter", (metric.label,) if metric.label else (), metric.text))
            elif isinstance(metric, Durations):
                rows.append((metric.name, "histogram", (metric.label,), metric.text))
            elif isinstance(metric, Counter | Gauge):
                name = f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
                rows.append((name, metric._type, tuple(metric._labelnames), metric._documentation))
        return rows

    def fan_out(self, records: int, size: int, delivered: int, duplicates: int) -> None:
        """A batch of one results partition was passed on."""
        self.read.inc(records)
        self.read_bytes.inc(size)
        self.delivered.inc(delivered)
        if duplicates:
            self.duplicates.inc(duplicates)
