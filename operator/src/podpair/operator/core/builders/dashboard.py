"""The dashboard of a resource for Grafana, in a ConfigMap that the sidecar of Grafana's chart takes up.

A dashboard of the same name replaces the one before: its uid follows from namespace and name alone.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.builders.burn_rates import error_ratio
from podpair.operator.core.builders.naming import Manifest, metadata
from podpair.operator.core.builders.promql import number, pod_matchers

SUFFIX = "-dashboard"
LABEL = {"grafana_dashboard": "1"}
RATE = "$__rate_interval"
"""Grafana's variable: four times the scrape interval at least."""
_SCHEMA = 39  # Grafana 10.4 and later
_WIDTH, _COLUMNS, _HEIGHT = 8, 3, 8  # a row of Grafana's grid is 24 wide
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """One graph: queries by their legend, and the unit of what they return, as Grafana names it. `limit`: an objective."""

    title: str
    unit: str
    queries: dict[str, str]
    limit: float | None = None


def config_map(gateway: InferenceGateway) -> list[Manifest]:
    """Build the ConfigMap with the dashboard, if one is wanted."""
    if not gateway.spec.monitoring.dashboard:
        return []
    name = f"{gateway.metadata.namespace}-{gateway.metadata.name}.json"
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(gateway, SUFFIX, more_labels=LABEL),
            "data": {name: json.dumps(dashboard(gateway), indent=1)},
        }
    ]


def dashboard(gateway: InferenceGateway) -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON."""
    where = f"{gateway.metadata.namespace}/{gateway.metadata.name}"
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in _rows(gateway):
        panels.append(_heading(len(panels) + 1, title, top))
        top += 1
        for place, panel in enumerate(row):
            line, column = divmod(place, _COLUMNS)
            position = {"x": column * _WIDTH, "y": top + line * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_graph(len(panels) + 1, panel, position))
        top += -(-len(row) // _COLUMNS) * _HEIGHT
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0}
    return {
        "uid": hashlib.sha256(where.encode()).hexdigest()[:32],
        "title": f"podpair: {where}",
        "tags": ["podpair"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _heading(number_: int, title: str, top: int) -> dict[str, Any]:
    position = {"x": 0, "y": top, "w": _WIDTH * _COLUMNS, "h": 1}
    return {"id": number_, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": position}


def _graph(number_: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
        for place, (legend, expression) in enumerate(panel.queries.items())
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.limit is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.limit}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return {
        "id": number_,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }


def _rows(gateway: InferenceGateway) -> Iterator[tuple[str, list[Panel]]]:
    pods = f"{{{pod_matchers(gateway)}}}"
    yield "Objectives", _objectives(gateway, pods)
    yield "Sessions", _sessions(pods)
    yield "Queue", _queue(pods)
    if gateway.spec.amqp is not None:
        yield "RabbitMQ", _amqp(pods)
    if gateway.spec.gateway.workflows is not None:
        yield "Workflows", _workflows(pods)
    if gateway.spec.deliveries is not None:
        yield "Deliveries", _deliveries(pods)
    yield "Model", _model(gateway, pods)
    yield "Gateways", _gateways(gateway, pods)


def _rate(metric: str, pods: str, *by: str) -> str:
    return f"sum{_by(by)}(rate(podpair_gateway_{metric}{pods}[{RATE}]))"


def _sum(metric: str, pods: str, *by: str) -> str:
    return f"sum{_by(by)}(podpair_gateway_{metric}{pods})"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""


def _quantile(share: float, histogram: str, pods: str, *by: str) -> str:
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({number(share)}, sum by ({labels}) (rate({histogram}_bucket{pods}[{RATE}])))"


def _objectives(gateway: InferenceGateway, pods: str) -> list[Panel]:
    slo, matchers = gateway.spec.monitoring.slo, pods[1:-1]
    latency = "podpair_gateway_request_duration_seconds"
    limit = None if slo.latency is None else seconds(slo.latency.p99)
    return [
        Panel("Requests that fail", "percentunit", {"failed": error_ratio(matchers, RATE)}, (100 - slo.availability) / 100),
        Panel(
            "Latency of direct requests", "s",
            {f"p{share * 100:g}": _quantile(share, latency, pods) for share in (0.5, 0.95, 0.99)}, limit,
        ),
        Panel("Requests by outcome", "reqps", {"{{outcome}}": _rate("requests_completed_total", pods, "outcome")}),
    ]  # fmt: skip


def _sessions(pods: str) -> list[Panel]:
    return [
        Panel("Sessions", "short", {"{{pod}}": _sum("sessions", pods, "pod")}),
        Panel("Connections", "short", {"{{state}}": _sum("connections", pods, "state")}),
        Panel(
            "Connections opened and closed", "cps",
            {
                "opened by {{transport}}": _rate("sessions_opened_total", pods, "transport"),
                "closed: {{reason}}": _rate("sessions_closed_total", pods, "reason"),
            },
        ),
        Panel("Requests accepted", "reqps", {"{{route}}": _rate("requests_total", pods, "route")}),
        Panel("Rejected", "reqps", {"{{stage}}: {{reason}}": _rate("rejected_total", pods, "stage", "reason")}),
        Panel(
            "Resumed, and gaps", "ops",
            {
                "resumed from {{source}}": _rate("resumes_total", pods, "source"),
                "gap: {{reason}}": _rate("gaps_total", pods, "reason"),
            },
        ),
        Panel("Slow clients", "short", {"{{pod}}": _sum("slow_clients", pods, "pod")}),
    ]  # fmt: skip


def _queue(pods: str) -> list[Panel]:
    return [
        Panel("Queued requests, unfinished", "short", {"partition {{partition}}": _sum("requests_lag", pods, "partition")}),
        Panel("Queued requests finished", "reqps", {"{{outcome}}": _rate("queue_requests_total", pods, "outcome")}),
        Panel(
            "Given up, tried again, spilled", "reqps",
            {
                "dead letters": _rate("dead_letters_total", pods),
                "tried again: {{reason}}": _rate("queue_retries_total", pods, "reason"),
                "spilled: {{reason}}": _rate("spilled_total", pods, "reason"),
            },
        ),
        Panel("Request partitions", "short", {"{{pod}}": _sum("request_partitions", pods, "pod")}),
        Panel("Rebalances", "ops", {"{{event}}": _rate("rebalances_total", pods, "event")}),
        Panel(
            "Results", "ops",
            {
                "read": _rate("results_records_read_total", pods),
                "delivered": _rate("results_records_delivered_total", pods),
                "written to {{topic}}: {{outcome}}": _rate("records_written_total", pods, "topic", "outcome"),
            },
        ),
    ]  # fmt: skip


def _amqp(pods: str) -> list[Panel]:
    # Each gateway of a queue tells the same length.
    waiting = f"max by (queue) (podpair_gateway_amqp_queue_messages{pods})"
    return [
        Panel("Messages that wait", "short", {"{{queue}}": waiting}),
        Panel("Messages that are worked on", "short", {"{{pod}}": _sum("amqp_in_flight", pods, "pod")}),
        Panel("Answers to messages", "reqps", {"{{outcome}}": _rate("amqp_replies_total", pods, "outcome")}),
    ]


def _workflows(pods: str) -> list[Panel]:
    idle = f"max by (state) (podpair_gateway_workflow_idle_seconds{pods})"
    stages = _rate("workflow_stages_total", pods, "stage", "outcome")
    return [
        Panel("Workflow instances", "short", {"{{workflow}}, {{state}}": _sum("workflows", pods, "workflow", "state")}),
        Panel("Stages that ended", "ops", {"{{stage}}: {{outcome}}": stages}),
        Panel("Longest without anything happening", "s", {"{{state}}": idle}),
    ]


def _deliveries(pods: str) -> list[Panel]:
    ended = _rate("deliveries_total", pods, "kind", "outcome")
    p99 = _quantile(0.99, "podpair_gateway_delivery_duration_seconds", pods, "kind")
    return [
        Panel("Deliveries that ended", "ops", {"{{kind}}: {{outcome}}": ended}),
        Panel("Deliveries put off", "ops", {"{{reason}}": _rate("delivery_retries_total", pods, "reason")}),
        Panel("From an event to its delivery", "s", {"{{kind}} p99": p99}),
        Panel("Deliveries that wait", "short", {"{{pod}}": _sum("deliveries_waiting", pods, "pod")}),
    ]


def _model(gateway: InferenceGateway, pods: str) -> list[Panel]:
    calls, rows = _rate("upstream_calls_total", pods), _rate("upstream_rows_total", pods)
    panels = [
        Panel(
            "In flight", "short",
            {"direct": _sum("direct_in_flight", pods), "queued": _sum("queue_in_flight", pods)},
        ),
        Panel("Calls to the model", "ops", {"{{mode}}": _rate("upstream_calls_total", pods, "mode")}),
        Panel("Rows of batches per call", "short", {"rows": f"{rows} / {calls}"}),
    ]  # fmt: skip
    if gateway.spec.inference.is_podpair and gateway.spec.inference.protocol == "rest":
        quantiles = {f"{{{{model}}}} p{share * 100:g}": share for share in (0.5, 0.99)}
        latency = "inference_request_duration_seconds"
        queries = {legend: _quantile(share, latency, pods, "model") for legend, share in quantiles.items()}
        panels.append(Panel("Latency of the model", "s", queries))
    if gateway.spec.gateway.cache is not None:
        queries = {"{{outcome}}": _rate("cache_requests_total", pods, "outcome")}
        panels.append(Panel("Requests to the cache", "reqps", queries))
    return panels


def _gateways(gateway: InferenceGateway, pods: str) -> list[Panel]:
    ready = {
        words: f"min(podpair_gateway_{metric}{pods})"
        for words, metric in (
            ("model", "inference_ready"), ("broker", "kafka_ready"), ("topics", "topics_ready"), ("tokens", "auth_ready"),
        )
    }  # fmt: skip
    panels = [
        Panel("Ready, in all pods", "bool_yes_no", ready),
        Panel("CPU", "short", {"{{pod}}": f"sum by (pod) (rate(process_cpu_seconds_total{pods}[{RATE}]))"}),
        Panel("Memory", "bytes", {"{{pod}}": f"sum by (pod) (process_resident_memory_bytes{pods})"}),
    ]
    if gateway.spec.gateway.tls is not None:
        ends = f"min(podpair_gateway_tls_certificate_expiration_timestamp_seconds{pods}) - time()"
        panels.append(Panel("Time left of the certificate", "s", {"left": ends}))
    return panels
