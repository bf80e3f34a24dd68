"""What `external.metrics.k8s.io/v1beta1` says: its discovery documents, values, and refusals, as Kubernetes' API has them.

A value that isn't known is refused with 503, never reported as 0 or as an empty list: a HorizontalPodAutoscaler that gets an
error for a metric doesn't scale down by another one either, and has the message in its conditions.
"""

import re
from collections.abc import Mapping
from typing import Any

from podpair.operator.core.builders.naming import GATEWAY_LABEL
from podpair.operator.core.external_metrics_values import NAMES, MetricValues

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
_IN = re.compile(rf"{re.escape(GATEWAY_LABEL)}\s+in\s+\(([^()]*)\)")
_EQUAL = re.compile(rf"{re.escape(GATEWAY_LABEL)}\s*==?\s*([^\s,=]+)")

Document = dict[str, Any]


class Refusal(Exception):
    """A request that gets no value. `code` is HTTP's, `reason` Kubernetes'."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": code,
        }


def discovery(path: str) -> Document | None:
    """Return the discovery document at a path; None: there is none."""
    group = {
        "name": GROUP,
        "versions": [{"groupVersion": API_VERSION, "version": VERSION}],
        "preferredVersion": {"groupVersion": API_VERSION, "version": VERSION},
    }
    resources = [
        {"name": name, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
        for name in NAMES
    ]
    info = {"title": "podpair's external metrics", "version": VERSION}
    documents: dict[str, Document] = {
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        f"/apis/{GROUP}": {"kind": "APIGroup", "apiVersion": "v1", **group},
        f"/apis/{API_VERSION}": {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": API_VERSION,
            "resources": resources,
        },
        "/openapi/v2": {"swagger": "2.0", "info": info, "paths": {}, "definitions": {}},
        "/openapi/v3": {"paths": {}},
    }
    return documents.get(path)


def check_metric(metric: str) -> None:
    """Raise Refusal if there is no such metric."""
    if metric not in NAMES:
        raise Refusal(404, "NotFound", f"there is no metric {metric}; there are {', '.join(NAMES)}")


def gateways_wanted(selector: str) -> list[str]:
    """Return the InferenceGateways that a label selector names. Raises Refusal for any other kind of selector."""
    text = selector.strip()
    if (one := _EQUAL.fullmatch(text)) is not None:
        return [one[1]]
    if (several := _IN.fullmatch(text)) is not None:
        return sorted({name for part in several[1].split(",") if (name := part.strip())})
    message = (
        f"select InferenceGateways by name: {GATEWAY_LABEL}=NAME, or {GATEWAY_LABEL} in (NAME,…); got {selector!r}"
    )
    raise Refusal(400, "BadRequest", message)


def values(metric: str, found: Mapping[str, MetricValues | None], namespace: str, timestamp: str) -> Document:
    """Return the values of a metric, by the names of resources; `timestamp` is RFC 3339's.

    Raises Refusal if there is no such resource (None), or its value isn't known.
    """
    items = []
    for name, measures in sorted(found.items()):
        if measures is None:
            raise Refusal(404, "NotFound", f"there is no InferenceGateway {namespace}/{name} that this operator keeps")
        value = measures.value(metric)
        if value is None:
            raise Refusal(
                503,
                "ServiceUnavailable",
                f"{metric} of InferenceGateway {namespace}/{name} isn't known now:"
                f" kubectl describe igw -n {namespace} {name} says why",
            )
        labels = {GATEWAY_LABEL: name}
        items.append({"metricName": metric, "metricLabels": labels, "timestamp": timestamp, "value": quantity(value)})
    return {"kind": "ExternalMetricValueList", "apiVersion": API_VERSION, "metadata": {}, "items": items}


def quantity(value: float) -> str:
    """Return a number as a Kubernetes quantity, to a millionth: 0.25 is 250m, 12 is 12."""
    millionths = round(value * 1_000_000)
    for unit, size in (("", 1_000_000), ("m", 1000)):
        if millionths % size == 0:
            return f"{millionths // size}{unit}"
    return f"{millionths}u"
