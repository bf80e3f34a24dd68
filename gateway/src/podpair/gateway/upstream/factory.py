"""The inference container: its client, its readiness and how long its answers take."""

from dataclasses import dataclass
from importlib import import_module

from podpair.common.gateway_config.model import Inference
from podpair.gateway.core.answer_cache import AnswerCaches
from podpair.gateway.core.latency_estimate import LatencyEstimator
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.client import InferenceClient
from podpair.gateway.upstream.readiness import Readiness


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """The container: how it is called, its readiness, and how long its answers take."""

    upstream: Upstream
    client: InferenceClient
    readiness: Readiness
    latency: LatencyEstimator
    caches: AnswerCaches | None = None
    """Answers that are kept; None: no model's are."""


def make_upstream(config: Inference) -> Upstream:
    """Make the client for V2 over REST or gRPC. An unused one is not imported: gRPC costs a fifth of a second and some 20 MB."""
    name, kind = ("rest", "RestUpstream") if config.url.startswith("http") else ("grpc", "GrpcUpstream")
    made: Upstream = getattr(import_module(f"podpair.gateway.upstream.{name}"), kind)(config)
    return made
