"""The way to the other half that its address names."""

from importlib import import_module

from podpair.gateway.config.model import Inference
from podpair.gateway.upstream.calls import Upstream


def make_upstream(config: Inference) -> Upstream:
    """V2 over REST or gRPC. What is not used is not imported: gRPC costs a fifth of a second and some 20 MB."""
    name, kind = ("rest", "RestUpstream") if config.url.startswith("http") else ("grpc", "GrpcUpstream")
    made: Upstream = getattr(import_module(f"podpair.gateway.upstream.{name}"), kind)(config)
    return made
