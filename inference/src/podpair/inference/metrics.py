"""Every metric of this container. Names and the latency buckets are a contract: dashboards and autoscalers use them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from podpair.common.histograms import Distribution, Histograms

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5)
STAGE_BUCKETS = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# The stages of a request: decoded and checked, waiting for its batch, in the runtime, post-processed, written. Models of
# images have `preprocess` after the first.
STAGES = ("ingress", "queue", "runtime", "postprocess", "egress")


class Metrics:
    """The metrics in a registry of their own; `for_model(model)` binds the ones that carry a model's name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.request_duration = Histograms(
            "inference_request_duration_seconds",
            "From a request's entry into the queue to its result",
            ["model"],
            LATENCY_BUCKETS,
        )
        self.stages = Histograms(
            "inference_stage_duration_seconds",
            "Time in a stage, waiting included: of a request, in runtime and postprocess of a batch",
            ["model", "stage"],
            STAGE_BUCKETS,
        )
        self.batch_size = Histograms("inference_batch_size", "Rows in a run", ["model"], BATCH_BUCKETS)
        for family in (self.request_duration, self.stages, self.batch_size):
            self.registry.register(family)
        self.errors = Counter(
            "inference_errors", "Requests that ended without a result", ["reason"], registry=self.registry
        )
        self.queue_depth = Gauge("inference_queue_depth", "Rows waiting", ["model"], registry=self.registry)
        self.running = Gauge("inference_running_batches", "Batches in the runtime", ["model"], registry=self.registry)
        self.model_ready = Gauge(
            "inference_model_ready",
            "1: it is served; 0: it can't be loaded, was unloaded, is being restarted, or says that it isn't ready",
            ["model"],
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "inference_worker_restarts",
            "Processes of Python models that ended and were restarted: signal, exited, timeout; load: the restart failed",
            ["model", "reason"],
            registry=self.registry,
        )
        self.open_streams = Gauge("inference_open_streams", "Answers in parts", ["model"], registry=self.registry)
        self.pending_bytes = Gauge(
            "inference_pending_bytes",
            "Bytes of large requests that are read, wait or are answered; server.max_pending_bytes bounds them",
            registry=self.registry,
        )
        self.stage_queue_depth = Gauge(
            "inference_stage_queue_depth",
            "What is in a stage or waits for it: rows in preprocess and queue, batches in runtime",
            ["model", "stage"],
            registry=self.registry,
        )

    def stage(self, model: str, stage: str) -> "StageMetrics":
        """Return the metrics of one stage of one model."""
        return StageMetrics(self.stages.labels(model, stage), self.stage_queue_depth.labels(model, stage))

    def for_model(self, model: str) -> "ModelMetrics":
        """Return the metrics of one model, to be kept: looking them up costs more than an observation."""
        return ModelMetrics(self, model)

    def render(self) -> bytes:
        """Return the text exposition format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """One model's metrics."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.request_duration = metrics.request_duration.labels(model)
        self.queue_depth = metrics.queue_depth.labels(model)
        self.running = metrics.running.labels(model)
        self.open_streams = metrics.open_streams.labels(model)
        # By stage, the same values as the two gauges above.
        self.depths = {stage: metrics.stage_queue_depth.labels(model, stage) for stage in ("queue", "runtime")}
        self.batch_size = metrics.batch_size.labels(model)
        self.ingress, self.queue, self.runtime, self.postprocess, self.egress = (
            metrics.stages.labels(model, stage) for stage in STAGES
        )


class StageMetrics:
    """One stage's metrics."""

    def __init__(self, seconds: Distribution, queue_depth: Gauge) -> None:
        self.seconds = seconds
        self.queue_depth = queue_depth
