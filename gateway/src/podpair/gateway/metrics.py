"""The gateway's Prometheus metrics: one for each decision, all of them here."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector

from podpair.common.histograms import Histograms
from podpair.gateway.collectors import Readings, Tally
from podpair.gateway.core.protocol import CloseCode, Code, Fault, closing_reason
from podpair.gateway.core.quotas import Forbidden, Limited

INFERENCE_LATENCY = "inference_request_duration_seconds"
"""The histogram of the inference container that /metrics passes on: autoscalers go by it."""
_DELIVERY = (0.01, 0.05, 0.25, 1, 5, 30, 300, 3600, 86_400)
_LATENCY = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


_NAME = "podpair_gateway_"


class Metrics:
    """The gateway's metrics, in a registry of their own so that two gateways fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._add_public_port(self.registry)
        self._add_openai(self.registry)
        self._add_sessions(self.registry)
        self._add_requests(self.registry)
        self._add_cache(self.registry)
        self._add_deliveries(self.registry)
        self._add_kafka(self.registry)
        self._add_results(self.registry)
        self._add_queue(self.registry)
        self._add_amqp(self.registry)
        self._add_workflows(self.registry)
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
        self.tls_expiration = Gauge(
            f"{_NAME}tls_certificate_expiration_timestamp_seconds",
            "When the certificate of the public port ends, in seconds since 1970; 0: it speaks plain HTTP",
            registry=registry,
        )
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

    def _add_openai(self, registry: CollectorRegistry) -> None:
        """Add the metrics of OpenAI's API."""
        self.openai_requests = Counter(
            f"{_NAME}openai_requests", "Calls of OpenAI's API, by endpoint and status of the response",
            ["endpoint", "status"], registry=registry,
        )  # fmt: skip

    def _add_sessions(self, registry: CollectorRegistry) -> None:
        """Add the metrics of sessions and their clients."""
        self.sessions = Gauge(f"{_NAME}sessions", "Sessions with a client connected", registry=registry)
        self.slow = Gauge(f"{_NAME}slow_clients", "Clients that have events waiting for them", registry=registry)
        self.opened = Counter(
            f"{_NAME}sessions_opened", "Connections made", ["transport", "resumed"], registry=registry
        )
        self.closed = Counter(f"{_NAME}sessions_closed", "Connections ended", ["reason"], registry=registry)
        self.closed.labels(closing_reason(CloseCode.SLOW))  # an alert has to see the first one, too
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
        self.completed = Tally(
            f"{_NAME}requests_completed", "Terminal events, by outcome", "outcome", ("result", *Code)
        )
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

    def _add_cache(self, registry: CollectorRegistry) -> None:
        """Add the metrics of the answer cache."""
        self.cache_requests = Counter(
            f"{_NAME}cache_requests",
            "Requests to models whose answers are cached: answered by one that is kept (hit), by a call for another request "
            "(wait), by a call that began for it (miss), or without a look at the cache (bypass)",
            ["model", "outcome"],
            registry=registry,
        )
        self.cache_removed = Counter(
            f"{_NAME}cache_removed",
            "Cached answers removed: too old (expired), for want of room (full), invalidated, or since the model is another "
            "one (model)",
            ["model", "reason"],
            registry=registry,
        )
        self.cache_invalidations = Counter(
            f"{_NAME}cache_invalidations",
            "Records of the invalidation topic; malformed: they have removed everything",
            ["outcome"],
            registry=registry,
        )
        self.cache_current = Gauge(
            f"{_NAME}cache_current",
            "1 while cached answers may be given, 0 while it is not known what has been invalidated",
            registry=registry,
        )
        self.cache_current.set(1)
        self.cache_bytes = Gauge(f"{_NAME}cache_bytes", "Memory of cached answers", ["model"], registry=registry)
        self.cache_entries = Gauge(f"{_NAME}cache_entries", "Cached answers", ["model"], registry=registry)

    def _add_deliveries(self, registry: CollectorRegistry) -> None:
        """Add the metrics of deliveries to those who aren't connected."""
        self.deliveries = Counter(
            f"{_NAME}deliveries",
            "Deliveries that have ended: delivered, failed (kept as dead letters), unsubscribed while they waited, or received by"
            " the session's own client (subscriptions for who is absent)",
            ["kind", "outcome"],
            registry=registry,
        )
        self.delivery_retries = Counter(
            f"{_NAME}delivery_retries",
            "Deliveries put off: after an attempt, or without one, because their host is left alone (circuit) or many wait "
            "for it (crowded)",
            ["reason"],
            registry=registry,
        )
        self.delivery_duration = Histograms(
            f"{_NAME}delivery_duration_seconds", "From an event's record to its delivery", ["kind"], _DELIVERY
        )
        self.deliveries_waiting = Gauge(
            f"{_NAME}deliveries_waiting",
            "Deliveries in hand, or on partitions of this gateway that wait",
            registry=registry,
        )
        self.deliveries_oldest = Gauge(
            f"{_NAME}deliveries_oldest_seconds", "Age of the oldest event whose delivery is in hand", registry=registry
        )
        self.circuits = Readings(
            f"{_NAME}deliveries_circuit_open_seconds",
            "Hosts that are left alone because they fail, by for how long they have; of many the rest is summed up as `other`",
            "host",
            20,
        )
        self.channels = Gauge(f"{_NAME}channels", "Channels that sessions here subscribe to", registry=registry)
        self.channel_subscriptions = Gauge(
            f"{_NAME}channel_subscriptions", "Subscriptions of sessions here to channels", registry=registry
        )
        self.publishes = Counter(
            f"{_NAME}channel_publishes",
            "Publications of clients, by outcome: written, or the code of the error",
            ["outcome"],
            registry=registry,
        )
        self.presence_sessions = Gauge(
            f"{_NAME}presence_sessions", "Sessions of the fleet whose presence is known", registry=registry
        )
        self.presence_gateways = Gauge(
            f"{_NAME}presence_gateways", "Gateways whose heartbeat of presence is fresh", registry=registry
        )
        self.presence_ready = Gauge(f"{_NAME}presence_ready", "1 while presence is known", registry=registry)
        self.presence_records = Counter(
            f"{_NAME}presence_records", "Records that say that a session has come or gone", registry=registry
        )
        self.subscriptions = Gauge(f"{_NAME}subscriptions", "Subscriptions to deliveries", registry=registry)

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

    def _add_workflows(self, registry: CollectorRegistry) -> None:
        """Add the metrics of workflows."""
        self.workflows = Gauge(
            f"{_NAME}workflows", "Workflow instances of this gateway's partitions, by what they do: running, waiting (for a "
            "client's message), compensating", ["workflow", "state"], registry=registry,
        )  # fmt: skip
        self.workflow_idle = Gauge(
            f"{_NAME}workflow_idle_seconds", "For how long nothing has happened to the instance that is idle the longest",
            ["state"], registry=registry,
        )  # fmt: skip
        self.workflow_stages = Counter(
            f"{_NAME}workflow_stages", "Stages that ended, by outcome: finished, skipped, failed, compensated",
            ["workflow", "stage", "outcome"], registry=registry,
        )  # fmt: skip
        self.workflow_stage_seconds = Histograms(
            f"{_NAME}workflow_stage_seconds", "From the start of a stage to its end, retries and waiting included",
            ["workflow", "stage"], (*_LATENCY, 300, 3600, 86_400),
        )  # fmt: skip
        self.workflows_ready = Gauge(
            f"{_NAME}workflows_ready", "1 while the state of workflows can be written and read", registry=registry
        )
        self.kept = Gauge(f"{_NAME}kept_requests", "Requests here that are to begin later", registry=registry)

    def _add_queue(self, registry: CollectorRegistry) -> None:
        """Add the metrics of queued requests."""
        self.owned = Gauge(f"{_NAME}request_partitions", "Request partitions of this group member", registry=registry)
        self.lag = Readings(
            f"{_NAME}requests_lag",
            "Queued requests that are not finished, by partition, of those of this group member; as of 5 s ago at most",
            "partition",
        )
        self.paused = Gauge(f"{_NAME}requests_paused", "1 while request partitions are paused", registry=registry)
        self.worked = Tally(
            f"{_NAME}queue_requests", "Queued requests finished here, by outcome", "outcome",
            ("result", "repeated", "cancellation", *Code),
        )  # fmt: skip
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

    def _add_amqp(self, registry: CollectorRegistry) -> None:
        """Add the metrics of RabbitMQ."""
        self.amqp_ready = Gauge(
            f"{_NAME}amqp_ready", "1 while RabbitMQ can be used, if requests are taken from there", registry=registry
        )
        self.amqp_paused = Gauge(
            f"{_NAME}amqp_paused", "1 while no messages are taken, since the model is not ready", registry=registry
        )
        self.amqp_length = Readings(
            f"{_NAME}amqp_queue_messages",
            "Messages that wait in the queue, without those that consumers have; each gateway of a queue tells the same",
            "queue",
        )
        self.amqp_in_flight = Gauge(
            f"{_NAME}amqp_in_flight", "Messages of RabbitMQ that are worked on; they count in queue_in_flight, too",
            registry=registry,
        )  # fmt: skip
        self.amqp_replies = Counter(
            f"{_NAME}amqp_replies",
            "Answers to messages with a reply_to: confirmed; unroutable, whoever asked is gone; refused, the queue is full; "
            "too_large, even with an error for its body; unwanted, the message went to somebody else before",
            ["outcome"],
            registry=registry,
        )
        self.amqp_connections = Counter(
            f"{_NAME}amqp_connections", "Connections to RabbitMQ that were made", ["connection"], registry=registry
        )
