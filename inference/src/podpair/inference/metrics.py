"""Every metric of this container. Names and the latency buckets are a contract: dashboards and autoscalers use them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics in a registry of their own; `of(model)` binds the ones that carry a model's name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "inference_latency_seconds",
            "From a request's entry into the queue to its result",
            ["model"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(
            "inference_errors", "Requests that ended without a result", ["type"], registry=self.registry
        )
        self.queue_depth = Gauge("inference_queue_depth", "Rows waiting", ["model"], registry=self.registry)
        self.batch_size = Histogram(
            "inference_batch_size", "Rows in a run", ["model"], buckets=BATCH_BUCKETS, registry=self.registry
        )

        self.stage_seconds = Histogram(
            "inference_stage_seconds",
            "What a request spends in a stage before the queue, waiting included",
            ["model", "stage"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.stage_queue_depth = Gauge(
            "inference_stage_queue_depth",
            "Rows in a stage before the queue",
            ["model", "stage"],
            registry=self.registry,
        )

    def stage(self, model: str, stage: str) -> "StageMetrics":
        """The metrics of one stage of one model."""
        return StageMetrics(self.stage_seconds.labels(model, stage), self.stage_queue_depth.labels(model, stage))

    def of(self, model: str) -> "ModelMetrics":
        """The metrics of one model; looked up once, since a lookup costs more than an observation."""
        return ModelMetrics(self.latency.labels(model), self.queue_depth.labels(model), self.batch_size.labels(model))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """One model's metrics."""

    def __init__(self, latency: Histogram, queue_depth: Gauge, batch_size: Histogram) -> None:
        self.latency = latency
        self.queue_depth = queue_depth
        self.batch_size = batch_size


class StageMetrics:
    """One stage's metrics."""

    def __init__(self, seconds: Histogram, queue_depth: Gauge) -> None:
        self.seconds = seconds
        self.queue_depth = queue_depth
