"""Desired state: what a resource becomes. One pure function, which the operator and `podpair plan` share."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders import (
    alerts,
    dashboard,
    gateway_config,
    network,
    pods,
    references,
    scaling,
    settings,
)
from podpair.operator.core.builders.naming import Manifest, metadata

_ANNOTATION = "podpair.dev/{}-checksum"
OPERATOR_NAMESPACE = "podpair"
"""The operator's default namespace: that of the documented install."""
PLACEHOLDER_KEY = "made-by-the-operator"
"""Placeholder for the resume key in a plan. It is shorter than a key may be: neither operator nor gateway accepts it."""


@dataclass(frozen=True)
class Dependencies:
    """What a resource's objects depend on besides the resource."""

    gateway_image: str
    """The gateway's image if the resource names none."""
    resume_key: str
    """The key that signs resume tokens, 32 bytes at least: made once by the caller, kept from then on."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Checksums of the Secrets that `references_of` names, by name; those that aren't known are left out."""
    config_maps: Mapping[str, str] = field(default_factory=dict)
    """Checksums of the ConfigMaps, likewise."""
    pod_monitors: bool = False
    """Whether the cluster knows Prometheus Operator's PodMonitor."""
    prometheus_rules: bool = False
    """Whether it knows PrometheusRule."""
    operator_namespace: str = OPERATOR_NAMESPACE
    """Where the operator runs, which asks the pods for their load."""


def desired(gateway: InferenceGateway, dependencies: Dependencies) -> list[Manifest]:
    """Return the objects of a resource without `config_faults`, in an order in which they can be applied."""
    config_map = gateway_config.config_map(gateway)
    resume_key = resume_secret(gateway, dependencies.resume_key)
    own_secret = resume_key["metadata"]["name"]
    secrets = {**_known(gateway, "Secret", dependencies.secrets), own_secret: checksum(resume_key["data"])}
    config_maps = _known(gateway, "ConfigMap", dependencies.config_maps)
    checksums = {
        _ANNOTATION.format("config"): checksum({**config_map["data"], **config_maps}),
        _ANNOTATION.format("secrets"): checksum(secrets),
    }
    objects = [
        network.service_account(gateway),
        resume_key,
        config_map,
        *settings.models_config_map(gateway),
        network.service(gateway),
        *network.network_policy(gateway, dependencies.operator_namespace),
        pods.deployment(gateway, dependencies.gateway_image, checksums),
        *network.disruption_budget(gateway),
        *scaling.autoscaler(gateway),
        *network.ingress_or_route(gateway),
        *dashboard.config_map(gateway),
    ]
    if dependencies.pod_monitors and gateway.spec.monitoring.pod_monitor:
        objects.append(network.pod_monitor(gateway))
    if dependencies.prometheus_rules and gateway.spec.monitoring.alerts:
        objects.append(alerts.prometheus_rule(gateway))
    return objects


def _known(gateway: InferenceGateway, kind: str, checksums: Mapping[str, str]) -> dict[str, str]:
    names = {one.name for one in references.references_of(gateway) if one.kind == kind and one.rolls}
    return {name: checksums[name] for name in sorted(names) if name in checksums}


def checksum(data: Mapping[str, str]) -> str:
    """Return a digest of what a ConfigMap or Secret holds."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def checksum_of(contents: Mapping[str, bytes]) -> str:
    """Return the same digest for decoded contents."""
    return checksum({key: base64.b64encode(value).decode() for key, value in contents.items()})


def resume_secret(gateway: InferenceGateway, key: str) -> Manifest:
    """Build the Secret with the key that signs resume tokens."""
    name = settings.resume_files(gateway).secret.removeprefix(gateway.metadata.name)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        # Annotations tell replicators to copy a Secret to other namespaces: that is not to come of one on the resource.
        "metadata": metadata(gateway, name, annotated=False),
        "type": "Opaque",
        "data": {settings.RESUME_KEY: base64.b64encode(key.encode()).decode()},
    }
