"""A resource's desired objects, and the gateway's configuration in them."""

from pathlib import Path
from typing import Any

from harness.resources import resource
from podpair.common.gateway_config.model import Config
from podpair.gateway.config.load import load
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.desired import Dependencies, desired

DEPENDENCIES = Dependencies(gateway_image="podpair-gateway:test", resume_key="k" * 43)


ALL_OF_A_RULE = {
    "claim": "tenant", "value": "acme", "sessions": 1, "requestsPerSecond": 2, "burst": 3, "inFlight": 4,
    "models": ["chat-*"], "routes": ["queue"], "priority": "low",
}  # fmt: skip


SASL_AND_TLS = {
    "kafka__tls": {"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}},
    "kafka__sasl": {"secretName": "kafka"},
}


def objects(around: Dependencies = DEPENDENCIES, **changed: Any) -> dict[str, Any]:
    """The objects by kind; the second ConfigMap, of the models, is `Models`, that of Grafana `Dashboard`."""
    made = desired(InferenceGateway.model_validate(resource(**changed)), around)
    by_suffix = {"models": "Models", "dashboard": "Dashboard"}
    by_kind = {by_suffix.get(one["metadata"]["name"].rpartition("-")[2], one["kind"]): one for one in made}
    assert len(by_kind) == len(made)
    return by_kind


def pod(**changed: Any) -> dict[str, Any]:
    spec: dict[str, Any] = objects(**changed)["Deployment"]["spec"]["template"]["spec"]
    return spec


def gateway_config(tmp_path: Path, **changed: Any) -> Config:
    """The ConfigMap's file, read by the gateway itself."""
    file = tmp_path / "gateway.yaml"
    file.write_text(objects(**changed)["ConfigMap"]["data"]["gateway.yaml"])
    return load(file)
