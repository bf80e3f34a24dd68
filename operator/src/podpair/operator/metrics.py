"""The operator's Prometheus metrics, named as controller-runtime's and client-go's: their dashboards and alerts fit."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

CONTROLLER = "inferencegateway"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RESULTS = ("success", "error", "requeue_after")


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._add_controller(self.registry)
        self._add_queue(self.registry)
        self._add_own(self.registry)
        for result in _RESULTS:
            self.reconciled.labels(CONTROLLER, result)
        self.reconcile_errors.labels(CONTROLLER)

    def _add_controller(self, registry: CollectorRegistry) -> None:
        """Add controller-runtime's metrics."""
        runtime, controller = "controller_runtime_", ["controller"]
        self.reconciled = Counter(
            f"{runtime}reconcile", "Reconciliations, by result", [*controller, "result"], registry=registry
        )
        self.reconcile_errors = Counter(
            f"{runtime}reconcile_errors", "Reconciliations that failed", controller, registry=registry
        )
        self.reconcile_seconds = Histogram(
            f"{runtime}reconcile_time_seconds",
            "Length of reconciliations",
            controller,
            buckets=_SECONDS,
            registry=registry,
        )
        self.active = Gauge(f"{runtime}active_workers", "Workers at work", controller, registry=registry)
        self.most = Gauge(
            f"{runtime}max_concurrent_reconciles", "Workers that there are", controller, registry=registry
        )

    def _add_queue(self, registry: CollectorRegistry) -> None:
        """Add the work queue's metrics, as client-go names them."""
        queue, name = "workqueue_", ["name"]
        self.depth = Gauge(f"{queue}depth", "Resources that wait", name, registry=registry)
        self.adds = Counter(f"{queue}adds", "Resources put in the queue", name, registry=registry)
        self.waited = Histogram(
            f"{queue}queue_duration_seconds", "How long they waited", name, buckets=_SECONDS, registry=registry
        )
        self.worked = Histogram(
            f"{queue}work_duration_seconds", "How long work on them took", name, buckets=_SECONDS, registry=registry
        )
        self.retries = Counter(f"{queue}retries", "Resources put back after a failure", name, registry=registry)

    def _add_own(self, registry: CollectorRegistry) -> None:
        """Add what the operator has besides: requests, leadership, watches, objects, connections, brokers."""
        self.requests = Counter(
            "rest_client_requests",
            "Requests to the API server, by status code and method",
            ["code", "method"],
            registry=registry,
        )
        self.leading = Gauge(
            "leader_election_master_status", "1 while this operator is the one that writes", ["name"], registry=registry
        )
        self.watches = Gauge(
            "podpair_operator_watches", "Watches, by whether they are alive", ["state"], registry=registry
        )
        self.applied = Counter(
            "podpair_operator_objects", "Objects written, by kind and outcome", ["kind", "outcome"], registry=registry
        )
        self.connections_closed = Counter(
            "podpair_operator_connections_closed",
            "Connections closed in a phase whose time was over, or for newer ones",
            ["port", "reason"],
            registry=registry,
        )
        self.connections_refused = Counter(
            "podpair_operator_connections_refused",
            "Connections refused for want of room or of file descriptors",
            ["port", "reason"],
            registry=registry,
        )
        self.certificate_expiration = Gauge(
            "podpair_operator_metrics_api_certificate_expiration_timestamp_seconds",
            "When the certificate of the metrics API ends, in seconds since 1970; 0: none is served",
            registry=registry,
        )
        self.broker_processes = Gauge(
            "podpair_operator_broker_processes", "Processes that ask brokers", registry=registry
        )
        self.broker_process_failures = Counter(
            "podpair_operator_broker_process_failures",
            "Processes that asked a broker and ended, or gave no answer, by why",
            ["reason"],
            registry=registry,
        )
