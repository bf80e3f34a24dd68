"""The PrometheusRule of a resource: alerts on its objectives, on what isn't ready, and on what was lost.

Each alert names its runbook: the heading of its own name on the page that `monitoring.runbook` says. Labels and annotations are
those of kube-prometheus (`severity`: critical pages, warning doesn't; `summary`, `description`, `runbook_url`).
"""

from collections.abc import Iterator
from typing import NamedTuple

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.builders import burn_rates
from podpair.operator.core.builders.naming import Manifest, metadata
from podpair.operator.core.builders.promql import duration, increased, number, pod_matchers

_GATEWAY = "podpair_gateway_"
_RESTARTS = 3  # of Kafka clients in ten minutes: single ones mend themselves
_REBALANCES = 10  # assignments of a gateway in ten minutes, one a minute: a rollout waits longer for its pods
_RECEIVER_DOWN = 900  # seconds that a host has failed: shorter outages are what retries are for
_WORKFLOW_IDLE = (
    3600  # seconds without anything of an instance that waits for no message: longer than stages usually take
)
_DROPPED = 0.05  # of the sessions, closed in ten minutes for being slow


class Alert(NamedTuple):
    """One alert. `after`: how long its condition must hold, as PromQL has it."""

    name: str
    expression: str
    severity: str
    summary: str
    description: str
    after: str | None = None
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed


def prometheus_rule(gateway: InferenceGateway) -> Manifest:
    """Build the PrometheusRule for Prometheus Operator."""
    objectives = [_rule(gateway, alert) for alert in _objective_alerts(gateway)]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata(gateway, more_labels=gateway.spec.monitoring.labels),
        "spec": {
            "groups": [
                _group(gateway, "objectives", [*burn_rates.recording_rules(gateway), *objectives]),
                _group(gateway, "readiness", [_rule(gateway, alert) for alert in _readiness_alerts(gateway)]),
                _group(gateway, "losses", [_rule(gateway, alert) for alert in _loss_alerts(gateway)]),
            ]
        },
    }


def _group(gateway: InferenceGateway, name: str, rules: list[Manifest]) -> Manifest:
    # Prometheus evaluates as often as it scrapes: no sample is passed over, and short windows are seen.
    whole = f"podpair.{gateway.metadata.namespace}.{gateway.metadata.name}.{name}"
    return {"name": whole, "interval": gateway.spec.monitoring.interval, "rules": rules}


def _rule(gateway: InferenceGateway, alert: Alert) -> Manifest:
    labels = {
        "severity": alert.severity,
        "namespace": gateway.metadata.namespace,
        "gateway": gateway.metadata.name,
        **alert.labels,
    }
    annotations = {
        "summary": f"{gateway.metadata.namespace}/{gateway.metadata.name}: {alert.summary}",
        "description": alert.description,
        "runbook_url": f"{_literal(gateway.spec.monitoring.runbook)}#{alert.name.lower()}",
    }
    made: Manifest = {"alert": alert.name, "expr": alert.expression, "labels": labels, "annotations": annotations}
    return made if alert.after is None else made | {"for": alert.after}


def _literal(text: str) -> str:
    """Return a text as it has to stand in an annotation, which is a template of Go's."""
    return text.replace("{{", '{{ "{{" }}')


def _objective_alerts(gateway: InferenceGateway) -> Iterator[Alert]:
    for budget in burn_rates.budgets(gateway):
        for rate in burn_rates.BURN_RATES:
            expression = burn_rates.burn_expression(gateway, budget, rate)
            if expression is None:
                continue
            long, short = (burn_rates.window(gateway, length) for length in (rate.long, rate.short))
            description = (
                f"{{{{ $value | humanizePercentage }}}} in {long}, and still in {short}: the error budget of "
                f"{gateway.spec.monitoring.slo.window} is spent {rate.rate:g} times too fast."
            )
            labels = {"long": long, "short": short}
            yield Alert(budget.alert, expression, rate.severity, budget.summary, description, None, labels)
    if (age := gateway.spec.monitoring.slo.lag_age) is not None:
        # Fewer requests have ended since than were open then, so at least one that was open then still is, in whatever order
        # they end.
        pods = pod_matchers(gateway)
        ended = f"sum(increase({_GATEWAY}queue_requests_total{{{pods}}}[{age}]))"
        yield Alert(
            "PodpairQueueAgeHigh",
            f"sum({_GATEWAY}requests_lag{{{pods}}} offset {age}) > {ended} and sum({_GATEWAY}requests_lag{{{pods}}}) > 0",
            "warning",
            f"queued requests wait longer than {age}",
            f"Of {{{{ $value }}}} queued requests that were open {age} ago some still are.",
            gateway.spec.monitoring.interval,
        )


def _readiness_alerts(gateway: InferenceGateway) -> Iterator[Alert]:
    pods, after = pod_matchers(gateway), gateway.spec.monitoring.alert_after

    def state(name: str, metric: str, bad: int, severity: str, summary: str, description: str) -> Alert:
        return Alert(name, f"{_GATEWAY}{metric}{{{pods}}} == {bad}", severity, summary, description, after)

    pod = "{{ $labels.pod }}"
    may_be_none = gateway.spec.scaling.min == 0 if gateway.spec.replicas is None else gateway.spec.replicas == 0
    if not may_be_none:
        yield Alert(
            "PodpairDown", f"absent(up{{{pods}}} == 1)", "critical", "no gateway is scraped",
            f"For {after} Prometheus has got metrics of no pod: none runs, or it can't reach them.", after,
        )  # fmt: skip
    yield Alert(
        "PodpairModelDown", f"max({_GATEWAY}inference_ready{{{pods}}}) == 0", "critical", "no model is ready",
        f"In no pod has the inference container been ready for {after}: every request fails or waits.", after,
    )  # fmt: skip
    yield state(
        "PodpairModelNotReady", "inference_ready", 0, "warning", "a model isn't ready",
        f"The inference container of {pod} has not been ready for {after}.",
    )  # fmt: skip
    yield state(
        "PodpairKafkaNotReady", "kafka_ready", 0, "critical", "the broker doesn't answer",
        f"{pod} has had no answer of the broker for {after}: queued requests are refused.",
    )  # fmt: skip
    yield state(
        "PodpairTopicsNotReady", "topics_ready", 0, "critical", "topics are missing or have changed",
        f"For {pod} the topics have not been as it needs them for {after}.",
    )  # fmt: skip
    yield state(
        "PodpairRequestsPaused", "requests_paused", 1, "warning", "request partitions are paused",
        f"{pod} has taken nothing from the queue for {after}: its model isn't ready.",
    )  # fmt: skip
    if gateway.spec.gateway.auth.jwks_url is not None:
        yield state(
            "PodpairIssuerKeysMissing", "auth_ready", 0, "critical", "tokens can't be verified",
            f"{pod} has had no keys of the issuer, or too old ones, for {after}: clients are refused.",
        )  # fmt: skip
    if gateway.spec.gateway.cache is not None:
        yield state(
            "PodpairCacheNotCurrent", "cache_current", 0, "warning", "cached answers aren't used",
            f"{pod} has not known what was invalidated for {after}, and asks the model each time.",
        )  # fmt: skip
    if gateway.spec.amqp is not None:
        yield state(
            "PodpairRabbitmqNotReady", "amqp_ready", 0, "critical", "RabbitMQ can't be used",
            f"{pod} has had no use of RabbitMQ for {after}: nothing is taken from its queue. Its log says why.",
        )  # fmt: skip
    if gateway.spec.gateway.workflows is not None:
        yield from _workflow_alerts(pods, after)
    if gateway.spec.deliveries is not None:
        yield Alert(
            "PodpairReceiverDown",
            f"max by (host) ({_GATEWAY}deliveries_circuit_open_seconds{{{pods}}}) > {_RECEIVER_DOWN}",
            "warning", "a receiver of deliveries is down",
            "{{ $labels.host }} has failed for {{ $value | humanizeDuration }}: what is for it waits, and is given up in time.",
        )  # fmt: skip
    yield from _instability_alerts(pods, after)
    if gateway.spec.gateway.tls is not None:
        yield from _certificate_alerts(gateway, pods)


def _instability_alerts(pods: str, after: str) -> Iterator[Alert]:
    pod = "{{ $labels.pod }}"
    yield Alert(
        "PodpairKafkaClientsRestarting",
        f"sum by (pod, client) (increase({_GATEWAY}kafka_client_restarts_total{{{pods}}}[10m])) > {_RESTARTS}",
        "warning", "Kafka clients die again and again",
        f"The client {{{{ $labels.client }}}} of {pod} was replaced {{{{ $value | humanize }}}} times in 10 minutes.",
    )  # fmt: skip
    assigned = f'{_GATEWAY}rebalances_total{{{pods},event="assigned"}}'
    yield Alert(
        "PodpairRebalanceStorm",
        f"sum(increase({assigned}[10m])) / count({_GATEWAY}request_partitions{{{pods}}}) > {_REBALANCES}",
        "warning", "the group does not settle",
        "Request partitions were assigned {{ $value | humanize }} times to each gateway in 10 minutes.", after,
    )  # fmt: skip


def _workflow_alerts(pods: str, after: str) -> Iterator[Alert]:
    yield Alert(
        "PodpairWorkflowsNotReady", f"{_GATEWAY}workflows_ready{{{pods}}} == 0", "critical",
        "workflows stand still",
        f"{{{{ $labels.pod }}}} has not been able to write or read the state of workflows for {after}.", after,
    )  # fmt: skip
    idle = f'{_GATEWAY}workflow_idle_seconds{{{pods},state!="waiting"}}'
    yield Alert(
        "PodpairWorkflowStuck", f"max by (pod, state) ({idle}) > {_WORKFLOW_IDLE}", "warning", "a workflow doesn't go on",
        "Nothing has happened to an instance on {{ $labels.pod }} ({{ $labels.state }}) for {{ $value | humanizeDuration }}.",
    )  # fmt: skip


def _certificate_alerts(gateway: InferenceGateway, pods: str) -> Iterator[Alert]:
    early = seconds(gateway.spec.monitoring.certificate_expiry)
    left = f"{_GATEWAY}tls_certificate_expiration_timestamp_seconds{{{pods}}} - time()"
    for severity, limit in (("warning", early), ("critical", early / 4)):
        yield Alert(
            "PodpairCertificateExpiring", f"min({left}) < {number(limit)}", severity, "the certificate ends soon",
            f"The certificate of the public port ends in {{{{ $value | humanizeDuration }}}}: less than {duration(limit)}.",
        )  # fmt: skip
    yield Alert(
        "PodpairCertificateNotReloaded", increased(f"{_GATEWAY}tls_reloads_total", pods, only='outcome="failure"'),
        "warning", "a renewed certificate can't be used",
        "{{ $labels.pod }} goes on with the certificate before it: its log says why.",
    )  # fmt: skip


def _loss_alerts(gateway: InferenceGateway) -> Iterator[Alert]:
    pods = pod_matchers(gateway)
    yield Alert(
        "PodpairDeadLetters", increased(f"{_GATEWAY}dead_letters_total", pods), "warning", "requests were given up",
        "{{ $labels.pod }} has moved {{ $value | humanize }} queued requests to the dead-letter topic in 10 minutes.",
    )  # fmt: skip
    if gateway.spec.deliveries is not None:
        yield Alert(
            "PodpairDeliveriesFailed",
            increased(f"{_GATEWAY}deliveries_total", pods, only='outcome="failed"', by="kind"),
            "warning", "deliveries were given up",
            "{{ $value | humanize }} deliveries (kind {{ $labels.kind }}) were given up in 10 minutes: they are dead letters.",
        )  # fmt: skip
    if gateway.spec.amqp is not None:
        yield Alert(
            "PodpairRabbitmqAnswersLost",
            increased(f"{_GATEWAY}amqp_replies_total", pods, only='outcome=~"refused|too_large"', by="outcome"),
            "warning", "answers were not taken by RabbitMQ",
            "{{ $value | humanize }} answers were {{ $labels.outcome }} in 10 minutes: whoever asked doesn't get them.",
        )  # fmt: skip
    yield Alert(
        "PodpairGaps", increased(f"{_GATEWAY}gaps_total", pods, by="reason"), "warning", "clients got gaps",
        "{{ $value | humanize }} gaps (reason {{ $labels.reason }}) were declared in 10 minutes: events can't be had any more.",
    )  # fmt: skip
    slow = f'sum(increase({_GATEWAY}sessions_closed_total{{{pods},reason="slow"}}[10m]))'
    yield Alert(
        "PodpairClientsDropped", f"{slow} > {_DROPPED} * sum(max_over_time({_GATEWAY}sessions{{{pods}}}[10m]))",
        "warning", "clients are too slow and are dropped",
        "{{ $value | humanize }} clients were closed in 10 minutes because they took nothing: more than 5 % of the sessions.",
    )  # fmt: skip
    yield Alert(
        "PodpairRecordsMisplaced",
        increased(f"{_GATEWAY}results_records_misplaced_total", pods, only='outcome!="delivered"'),
        "warning", "a producer writes where nobody reads",
        "{{ $labels.pod }} has seen {{ $value | humanize }} records outside the partition of their key in 10 minutes.",
    )  # fmt: skip
    yield Alert(
        "PodpairRecordsMalformed", increased(f"{_GATEWAY}results_records_malformed_total", pods),
        "warning", "a producer writes what can't be read",
        "{{ $labels.pod }} has read {{ $value | humanize }} malformed records for clients in 10 minutes.",
    )  # fmt: skip
