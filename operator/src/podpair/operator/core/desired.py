"""Desired state: what a resource becomes. One pure function, which the operator and `podpair plan` share."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from podpair.operator.core.objects import network, pods, references, scaling, settings
from podpair.operator.core.objects.naming import Manifest, metadata
from podpair.operator.core.resource.igw import InferenceGateway

_ANNOTATION = "podpair.dev/{}-checksum"
OPERATOR_NAMESPACE = "podpair"
"""The operator's namespace where nobody says another: that of the documented install."""
PLACEHOLDER_KEY = "made-by-the-operator"
"""Stands for the resume key in a plan. It is shorter than a key may be: neither operator nor gateway takes it for one."""


@dataclass(frozen=True)
class Surroundings:
    """What a resource's objects depend on besides the resource."""

    gateway_image: str
    """The gateway's image where the resource names none."""
    resume_key: str
    """The key that signs resume tokens, 32 bytes at least: made once by the caller, kept from then on."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Checksums of the Secrets that `references.named` names, by name; those that aren't known are left out."""
    config_maps: Mapping[str, str] = field(default_factory=dict)
    """Checksums of the ConfigMaps, likewise."""
    pod_monitors: bool = False
    """Whether the cluster knows Prometheus Operator's PodMonitor."""
    operator_namespace: str = OPERATOR_NAMESPACE
    """Where the operator runs, which asks the pods for their load."""


def desired(gateway: InferenceGateway, surroundings: Surroundings) -> list[Manifest]:
    """The objects of a resource, in an order in which they can be applied."""
    config_map = settings.config_map(gateway)
    resume_key = resume_secret(gateway, surroundings.resume_key)
    own_secret = resume_key["metadata"]["name"]
    secrets = {**_known(gateway, "Secret", surroundings.secrets), own_secret: checksum(resume_key["data"])}
    config_maps = _known(gateway, "ConfigMap", surroundings.config_maps)
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
        *network.network_policy(gateway, surroundings.operator_namespace),
        pods.deployment(gateway, surroundings.gateway_image, checksums),
        *network.disruption_budget(gateway),
        *scaling.autoscaler(gateway),
        *network.way_in(gateway),
    ]
    if surroundings.pod_monitors and gateway.spec.monitoring.pod_monitor:
        objects.append(network.pod_monitor(gateway))
    return objects


def _known(gateway: InferenceGateway, kind: str, checksums: Mapping[str, str]) -> dict[str, str]:
    names = {one.name for one in references.named(gateway) if one.kind == kind and one.rolls}
    return {name: checksums[name] for name in sorted(names) if name in checksums}


def checksum(data: Mapping[str, str]) -> str:
    """A digest of what a ConfigMap or Secret holds."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def checksum_of(contents: Mapping[str, bytes]) -> str:
    """The same digest, of contents that are decoded."""
    return checksum({key: base64.b64encode(value).decode() for key, value in contents.items()})


def resume_secret(gateway: InferenceGateway, key: str) -> Manifest:
    """The Secret with the key that signs resume tokens."""
    name = settings.resume_files(gateway).secret.removeprefix(gateway.metadata.name)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        # Annotations tell replicators to copy a Secret to other namespaces: that is not to come of one on the resource.
        "metadata": metadata(gateway, name, annotated=False),
        "type": "Opaque",
        "data": {settings.RESUME_KEY: base64.b64encode(key.encode()).decode()},
    }
