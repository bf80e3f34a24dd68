"""The Deployment and its pods. The order of a pod's two halves is the point: the model starts before the gateway joins Kafka,
and ends after it.

Inference is a restartable init container (a native sidecar) whose startupProbe holds the gateway back; when the pod ends
Kubernetes stops the gateway first. Every pod passes the `restricted` Pod Security Standard unless an overlay undoes it.
"""

import re
from typing import Any

from podpair.operator.core.api.gateway import LEAVING_SECONDS, STOPPING_SECONDS
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.inference import HttpGet, Inference, Probe, Variable
from podpair.operator.core.api.quantities import Resources
from podpair.operator.core.api.scalars import OPERATIONS_PORT, PUBLIC_PORT, whole_seconds
from podpair.operator.core.builders.naming import Manifest, labels, metadata, selector
from podpair.operator.core.builders.overlay import overlay
from podpair.operator.core.builders.settings import (
    CONFIG_FILE,
    CONFIG_FOLDER,
    MODELS_FOLDER,
    gateway_variables,
    inference_variables,
    models_config_map,
    secret_files,
    weights,
)

_CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
MODEL_METRICS = "metrics"
"""The name of the port at which the inference container serves metrics of its own."""
_LONGEST_SECONDS = 2**31 - 1  # Kubernetes counts them in 32 bits
_PROGRESS_SECONDS = 300  # for scheduling and pulling, besides what the model may take to load


def deployment(gateway: InferenceGateway, image: str, checksums: dict[str, str]) -> Manifest:
    """Build the Deployment. `image` is the gateway's; `checksums` are annotations that roll the pods when they change."""
    spec: dict[str, Any] = {
        "selector": {"matchLabels": selector(gateway)},
        "strategy": _strategy(gateway),
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": _progress_deadline(gateway),
        "template": pod_template(gateway, image, checksums),
    }
    replicas = fixed_replicas(gateway)
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(gateway), "spec": spec}


def _strategy(gateway: InferenceGateway) -> Manifest:
    rollout = gateway.spec.rollout
    if rollout.strategy == "recreate":
        return {"type": "Recreate"}
    surge, unavailable = rollout.max_surge, rollout.max_unavailable
    return {
        "type": "RollingUpdate",
        "rollingUpdate": {
            "maxSurge": "25%" if surge is None else surge,
            "maxUnavailable": 0 if unavailable is None else unavailable,
        },
    }


def _progress_deadline(gateway: InferenceGateway) -> int:
    wanted = gateway.spec.rollout.progress_deadline
    if wanted is not None:
        return whole_seconds(wanted)
    return min(_startup_seconds(gateway) + _PROGRESS_SECONDS, _LONGEST_SECONDS)


def fixed_replicas(gateway: InferenceGateway) -> int | None:
    """Return the number of pods; None: an autoscaler owns it, and nobody else writes it."""
    scaling = gateway.spec.scaling
    if gateway.spec.replicas is not None:
        return gateway.spec.replicas
    return scaling.min if scaling.min == scaling.max else None


def grace_seconds(gateway: InferenceGateway) -> int:
    """Return the pods' termination grace period, which follows from how long draining takes."""
    wanted = gateway.spec.gateway
    if wanted.termination_grace_period is not None:
        return whole_seconds(wanted.termination_grace_period)
    return whole_seconds(wanted.drain) + whole_seconds(wanted.shutdown_timeout) + STOPPING_SECONDS


def pod_template(gateway: InferenceGateway, image: str, checksums: dict[str, str]) -> Manifest:
    """Build the template of the pods, with the user's overlay laid over it."""
    spec: dict[str, Any] = {
        "serviceAccountName": gateway.metadata.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(gateway),
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [_inference(gateway)],
        "containers": [_gateway(gateway, image)],
        "volumes": _volumes(gateway),
    }
    if pull := gateway.spec.inference.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in pull]
    if spread := _spread(gateway):
        spec["topologySpreadConstraints"] = spread
    template = {"metadata": {"labels": labels(gateway), "annotations": checksums}, "spec": spec}
    laid = gateway.spec.inference.pod_template
    over = {name: part for name, part in (("metadata", laid.metadata), ("spec", laid.spec)) if part is not None}
    # The selector's labels come last: without them the Deployment would not know its own pods.
    made = overlay(overlay(template, over), {"metadata": {"labels": selector(gateway)}})
    if isinstance(made["spec"], dict):  # if it is removed, Kubernetes' 30 s apply, which is never enough
        made["spec"].setdefault("terminationGracePeriodSeconds", grace_seconds(gateway))
    return made


def containers_without_cpu(gateway: InferenceGateway, spec: Manifest) -> list[Manifest]:
    """Return the containers that keep an autoscaler from scaling by CPU, since they request none of it.

    An autoscaler counts containers that keep running: an init container that ends is none of them.
    """
    by_cpu = any(metric.cpu is not None for metric in gateway.spec.scaling.metrics)
    if not by_cpu or fixed_replicas(gateway) is not None or _requests_cpu(spec):
        return []
    found = []
    for kind in ("initContainers", "containers"):
        items = spec.get(kind)
        for one in items if isinstance(items, list) else ():
            stays = isinstance(one, dict) and (kind == "containers" or one.get("restartPolicy") == "Always")
            if stays and not _requests_cpu(one):
                found.append(one)
    return found


def _requests_cpu(one: Manifest) -> bool:
    """Return whether a container, or a pod as a whole, requests CPU; a limit alone is the request, too."""
    resources = one.get("resources")
    parts = [resources.get(part) for part in ("limits", "requests")] if isinstance(resources, dict) else []
    asked = None
    for part in parts:
        asked = part.get("cpu", asked) if isinstance(part, dict) else asked
    return asked is not None and re.fullmatch(r"[+-]?[0.]+([a-zA-Z].*)?", str(asked)) is None


def _inference(gateway: InferenceGateway) -> Manifest:
    wanted = gateway.spec.inference
    mounted = [{"name": "podpair-models", "mountPath": MODELS_FOLDER, "readOnly": True}] if weights(gateway) else []
    container: dict[str, Any] = {
        "name": "inference",
        "image": wanted.image,
        "restartPolicy": "Always",
        "env": [*inference_variables(gateway), *map(_variable, wanted.env)],
        "resources": _resources(wanted.resources),
        "startupProbe": _probe(wanted, wanted.probes.startup, "ready"),
        "livenessProbe": _probe(wanted, wanted.probes.liveness, "live"),
        "securityContext": _CONFINED,
    }
    if not container["env"]:
        del container["env"]
    if wanted.metrics_port is not None:
        container["ports"] = [{"name": MODEL_METRICS, "containerPort": wanted.metrics_port, "protocol": "TCP"}]
    if wanted.run_as_user is not None:
        container["securityContext"] = {**_CONFINED, "runAsUser": wanted.run_as_user}
    mounted += [
        {"name": volume.name, "mountPath": volume.mount_path, "readOnly": volume.read_only} for volume in wanted.volumes
    ]
    if mounted:
        container["volumeMounts"] = mounted
    given = {"command": list(wanted.command), "args": list(wanted.args), "imagePullPolicy": wanted.image_pull_policy}
    return container | {name: value for name, value in given.items() if value}


def _gateway(gateway: InferenceGateway, image: str) -> Manifest:
    wanted = gateway.spec.gateway
    mounts = [{"name": files.volume, "mountPath": files.folder, "readOnly": True} for files in secret_files(gateway)]
    container: dict[str, Any] = {
        "name": "gateway",
        "image": wanted.image or image,
        "args": ["serve", "--config", f"{CONFIG_FOLDER}/{CONFIG_FILE}"],
        "env": [*gateway_variables(gateway), *map(_variable, wanted.env)],
        "ports": [
            {"name": "http", "containerPort": PUBLIC_PORT, "protocol": "TCP"},
            {"name": "operations", "containerPort": OPERATIONS_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(wanted.resources),
        "readinessProbe": {**_http("/readyz"), "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
        # Without it a node that is too busy would end gateways that are still starting, and be busier for it.
        "startupProbe": {
            **_http("/healthz"),
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 120,
        },
        "livenessProbe": {
            **_http("/healthz"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVING_SECONDS}}},
        "volumeMounts": [
            {"name": "podpair-config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            *mounts,
            {"name": "podpair-tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the container's own
        ],
        "securityContext": {**_CONFINED, "readOnlyRootFilesystem": True},
    }
    if wanted.image_pull_policy is not None:
        container["imagePullPolicy"] = wanted.image_pull_policy
    if not container["env"]:
        del container["env"]
    return container


def _volumes(gateway: InferenceGateway) -> list[Manifest]:
    files = [
        {
            "name": one.volume,
            "secret": {"secretName": one.secret, "items": [{"key": key, "path": key} for key in one.keys]},
        }
        for one in secret_files(gateway)
    ]
    return [
        {"name": "podpair-config", "configMap": {"name": f"{gateway.metadata.name}-gateway"}},
        *files,
        *(
            {"name": "podpair-models", "configMap": {"name": one["metadata"]["name"]}}
            for one in models_config_map(gateway)
        ),
        {"name": "podpair-tmp", "emptyDir": {}},
        *({"name": volume.name, **volume.source} for volume in gateway.spec.inference.volumes),
    ]


def _spread(gateway: InferenceGateway) -> list[Manifest]:
    wanted = gateway.spec.topology_spread
    return [
        {
            "topologyKey": key,
            "maxSkew": wanted.max_skew,
            "whenUnsatisfiable": wanted.when_unsatisfiable,
            "labelSelector": {"matchLabels": selector(gateway)},
            "matchLabelKeys": ["pod-template-hash"],  # the pods of a rollout are spread among themselves
        }
        for key in wanted.keys
    ]


def _probe(inference: Inference, probe: Probe, state: str) -> Manifest:
    """Return a probe: a command for podpair-inference on localhost, since the kubelet's HTTP goes to the pod's address."""
    asked = _http_get(inference, probe, state)
    return {
        **({"httpGet": asked} if asked is not None else {"exec": _exec(inference, probe, state)}),
        "periodSeconds": whole_seconds(probe.period),
        "timeoutSeconds": whole_seconds(probe.timeout),
        "failureThreshold": probe.failure_threshold,
    }


def _http_get(inference: Inference, probe: Probe, state: str) -> Manifest | None:
    wanted = probe.http_get
    if wanted is None and (inference.is_podpair or probe.command is not None):
        return None
    wanted = wanted or HttpGet()
    return {"path": wanted.path or f"/v2/health/{state}", "port": wanted.port or inference.port}


def _exec(inference: Inference, probe: Probe, state: str) -> Manifest:
    """Return the probe's command: Python without site and with only sockets takes 33 ms of CPU, urllib 92, `podpair-inference
    health` 51.
    """
    address, request = ("127.0.0.1", inference.port), f"GET /v2/health/{state} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    ask = (
        f"import socket; s = socket.create_connection({address}, {whole_seconds(probe.timeout)});"
        f" s.sendall({request.encode()!r}); raise SystemExit(s.recv(12)[9:] != b'200')"
    )
    return {"command": list(probe.command or ("python3", "-I", "-S", "-c", ask))}


def _startup_seconds(gateway: InferenceGateway) -> int:
    startup = gateway.spec.inference.probes.startup
    return whole_seconds(startup.period) * startup.failure_threshold


def _http(path: str) -> Manifest:
    """Return a probe at the operations port, which is plain HTTP whatever the public one speaks."""
    return {"httpGet": {"path": path, "port": "operations"}}


def _variable(variable: Variable) -> Manifest:
    return variable.model_dump(by_alias=True, exclude_none=True)


def _resources(resources: Resources) -> Manifest:
    """Return requests and limits. A limit without a request is the request too: then podpair adds none."""
    return {name: dict(value) for name, value in (("requests", resources.asked), ("limits", resources.limits)) if value}
