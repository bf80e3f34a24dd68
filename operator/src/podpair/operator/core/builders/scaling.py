"""Who decides the number of pods: a HorizontalPodAutoscaler, or a KEDA ScaledObject.

Scaling up is quick and down slow by default: each pod that goes sends its clients elsewhere. The names of the external
metrics are a contract with whoever serves `external.metrics.k8s.io`.
"""

from typing import Any

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.api.scaling import Direction, Metric
from podpair.operator.core.builders.naming import (
    GATEWAY_LABEL,
    Manifest,
    brokers_from_elsewhere,
    consumer_group,
    metadata,
    requests_topic,
)
from podpair.operator.core.builders.pods import fixed_replicas
from podpair.operator.core.builders.promql import pod_matchers
from podpair.operator.core.external_metrics_values import INFLIGHT, LAG, LATENCY, SESSIONS

_UP = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_DOWN = {
    "stabilizationWindowSeconds": 300,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 1, "periodSeconds": 60},
        {"type": "Percent", "value": 10, "periodSeconds": 60},
    ],
}
_SASL = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}


def autoscaler(gateway: InferenceGateway) -> list[Manifest]:
    """Build the autoscaler's objects; none if the number of pods is fixed."""
    if fixed_replicas(gateway) is not None:
        return []
    return _keda(gateway) if gateway.spec.scaling.provider == "keda" else [_hpa(gateway)]


def _hpa(gateway: InferenceGateway) -> Manifest:
    scaling = gateway.spec.scaling
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(gateway),
        "spec": {
            "scaleTargetRef": _target(gateway),
            "minReplicas": scaling.min,
            "maxReplicas": scaling.max,
            "metrics": [_hpa_metric(gateway, metric) for metric in scaling.metrics],
            "behavior": _behavior(gateway),
        },
    }


def _target(gateway: InferenceGateway) -> Manifest:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": gateway.metadata.name}


def _behavior(gateway: InferenceGateway) -> Manifest:
    wanted = gateway.spec.scaling.behavior
    return {"scaleUp": _direction(wanted.scale_up, _UP), "scaleDown": _direction(wanted.scale_down, _DOWN)}


def _direction(wanted: Direction, default: Manifest) -> Manifest:
    return default | wanted.model_dump(mode="json", by_alias=True, exclude_none=True)


def _hpa_metric(gateway: InferenceGateway, metric: Metric) -> Manifest:
    if metric.cpu is not None:
        return {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": metric.cpu}},
        }
    name, target = _external(metric)
    labels = {"matchLabels": {GATEWAY_LABEL: gateway.metadata.name}}
    return {"type": "External", "external": {"metric": {"name": name, "selector": labels}, "target": target}}


def _external(metric: Metric) -> tuple[str, Manifest]:
    """Return the external metric's name and its target: latency is one number for all pods, the others are shared by them."""
    if metric.latency is not None:
        return LATENCY, {"type": "Value", "value": _milli(metric.latency)}
    counts = {
        LAG: metric.lag,
        SESSIONS: metric.sessions,
        INFLIGHT: metric.inflight,
    }
    name, value = next((name, value) for name, value in counts.items() if value is not None)
    return name, {"type": "AverageValue", "averageValue": str(value)}


def _milli(duration: str) -> str:
    """Seconds as a quantity in the form that the API server keeps: 50m is 50 ms, 2 is 2 s."""
    thousandths = round(seconds(duration) * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def _keda(gateway: InferenceGateway) -> list[Manifest]:
    scaling = gateway.spec.scaling
    authentication = _trigger_authentication(gateway)
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(gateway),
        "spec": {
            "scaleTargetRef": _target(gateway),
            "minReplicaCount": scaling.min,
            "maxReplicaCount": scaling.max,
            **_cooldown(gateway),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(gateway)}},
            "triggers": [_trigger(gateway, metric, bool(authentication)) for metric in scaling.metrics],
        },
    }
    return [*authentication, scaled]


def _cooldown(gateway: InferenceGateway) -> Manifest:
    """Return how long KEDA waits before the last pod goes, which no HorizontalPodAutoscaler decides there."""
    if gateway.spec.scaling.min > 0:
        return {}
    return {"cooldownPeriod": _behavior(gateway)["scaleDown"]["stabilizationWindowSeconds"]}


def _trigger(gateway: InferenceGateway, metric: Metric, authenticated: bool) -> Manifest:
    if metric.cpu is not None:
        return {"type": "cpu", "metricType": "Utilization", "metadata": {"value": str(metric.cpu)}}
    if metric.lag is not None:
        return _lag_trigger(gateway, metric.lag, authenticated)
    query, threshold = _query(gateway, metric)
    return {
        "type": "prometheus",
        "metricType": "Value" if metric.latency is not None else "AverageValue",
        "metadata": {
            "serverAddress": gateway.spec.scaling.prometheus_url,
            "query": query,
            "threshold": threshold,
            "ignoreNullValues": "false",  # unknown is unknown, and not 0
        },
    }


def _lag_trigger(gateway: InferenceGateway, target: int, authenticated: bool) -> Manifest:
    kafka = gateway.spec.kafka
    settings = {
        "bootstrapServers": brokers_from_elsewhere(gateway),
        "consumerGroup": consumer_group(gateway),
        "topic": requests_topic(gateway),
        "lagThreshold": str(target),
        "offsetResetPolicy": "earliest",
    }
    if kafka.tls is not None:
        settings["tls"] = "enable"
    if kafka.sasl is not None:
        settings["sasl"] = _SASL[kafka.sasl.mechanism]
    trigger: dict[str, Any] = {"type": "kafka", "metadata": settings}
    if authenticated:
        trigger["authenticationRef"] = {"name": f"{gateway.metadata.name}-kafka"}
    return trigger


def _query(gateway: InferenceGateway, metric: Metric) -> tuple[str, str]:
    """Return a PromQL query over the resource's pods, and its target."""
    pods = f"{{{pod_matchers(gateway)}}}"
    if metric.latency is not None:
        buckets = f"sum by (le) (rate(inference_request_duration_seconds_bucket{pods}[1m]))"
        return f"histogram_quantile(0.95, {buckets})", str(seconds(metric.latency))
    if metric.sessions is not None:
        return f"sum(podpair_gateway_sessions{pods})", str(metric.sessions)
    inflight = f"sum(podpair_gateway_direct_in_flight{pods}) + sum(podpair_gateway_queue_in_flight{pods})"
    return inflight, str(metric.inflight)


def _trigger_authentication(gateway: InferenceGateway) -> list[Manifest]:
    """Build what KEDA needs to ask a broker that wants a password or a certificate."""
    kafka = gateway.spec.kafka
    parameters: list[tuple[str, str, str]] = []
    if kafka.sasl is not None:
        parameters.append(("username", kafka.sasl.secret_name, kafka.sasl.username_key))
        parameters.append(("password", kafka.sasl.secret_name, kafka.sasl.password_key))
    if kafka.tls is not None and kafka.tls.ca_ref is not None:
        parameters.append(("ca", kafka.tls.ca_ref.name, kafka.tls.ca_ref.key))
    if kafka.tls is not None and kafka.tls.client_certificate_ref is not None:
        name = kafka.tls.client_certificate_ref.name
        parameters += [("cert", name, "tls.crt"), ("key", name, "tls.key")]
    if not parameters or all(metric.lag is None for metric in gateway.spec.scaling.metrics):
        return []
    targets = [{"parameter": parameter, "name": name, "key": key} for parameter, name, key in parameters]
    return [
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "TriggerAuthentication",
            "metadata": metadata(gateway, "-kafka"),
            "spec": {"secretTargetRef": targets},
        }
    ]
