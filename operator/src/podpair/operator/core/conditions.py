"""Status: what has been observed, as conditions that people read and programs rely on.

A pure function of the observations and of the last status. A condition's lastTransitionTime moves only if its status does,
and a message has no values that change by themselves, so an unchanged resource has an unchanged status.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import Manifest, selector
from podpair.operator.core.builders.pods import containers_without_cpu, fixed_replicas, pod_template
from podpair.operator.core.external_api_state import ExternalApiState
from podpair.operator.core.kafka_state import KafkaState
from podpair.operator.core.load import LoadState
from podpair.operator.core.messages import stable_message
from podpair.operator.core.pod_diagnosis import Problem, diagnose, stalled_rollout
from podpair.operator.core.progress import RECONCILING, STALLED, progress

Status = dict[str, Any]
READY, KAFKA, SCALING, DEGRADED, PAUSED, CAPPED = (
    "Ready",
    "KafkaReady",
    "Scaling",
    "Degraded",
    "Paused",
    "ReplicasCappedByPartitions",
)
# What KEDA says if a trigger fails and none is active. Prometheus has nothing of pods that aren't there; whether the broker can
# be asked is KafkaReady's to say.
_TRIGGER_ERROR = "TriggerError"
MODEL_LOADING = "ModelLoading"  # why Ready is False while a model takes its time


@dataclass(frozen=True)
class Observed:
    """What was observed of a resource. None: not known."""

    deployment: Manifest | None = None
    replica_sets: Sequence[Manifest] = ()
    pods: Sequence[Manifest] = ()
    autoscaler: Manifest | None = None
    """The HorizontalPodAutoscaler, or the ScaledObject."""
    faults: Sequence[Problem] = ()
    """Faults of the operator's own work: permissions, names that are taken, Secrets that are missing."""
    kafka: KafkaState | None = None
    external: ExternalApiState | None = None
    """Who serves the external metrics that a HorizontalPodAutoscaler reads."""
    load: LoadState = field(default_factory=LoadState)
    paused: bool = False


@dataclass(frozen=True)
class _State:
    status: str
    reason: str
    message: str


@dataclass(frozen=True)
class Counts:
    """Pods, as their Deployment counts them."""

    wanted: int
    there: int
    ready: int
    updated: int
    rolling: bool
    """The newest template has not reached all pods."""


def status(gateway: InferenceGateway, seen: Observed, before: Mapping[str, Any], now: str) -> Status:
    """Return the resource's status. `before` is the last one; `now` an RFC 3339 time for conditions that have changed."""
    counts = count_pods(seen.deployment)
    wrong = [*seen.faults, *diagnose(seen.deployment, seen.replica_sets, seen.pods), *_weights_lost(gateway, seen.load)]
    scaling = _scaling(gateway, seen)
    last = {one["type"]: _State(one["status"], one["reason"], one["message"]) for one in before.get("conditions") or []}
    kafka = _kafka(seen.kafka, last.get(KAFKA))
    ready = _ready(gateway, seen, counts, wrong, kafka)
    states = {
        READY: ready,
        **_progress(seen, counts, wrong, ready, kafka),
        KAFKA: kafka,
        SCALING: scaling,
        DEGRADED: _degraded(wrong, kafka, scaling),
        PAUSED: _paused(seen.paused),
        CAPPED: _capped(gateway, seen.kafka, last.get(CAPPED)),
    }
    generation = gateway.metadata.generation
    made: Status = {
        "observedGeneration": generation,
        "conditions": _conditions(states, before.get("conditions") or [], generation, now),
        "replicas": counts.there,
        "readyReplicas": counts.ready,
        "ready": f"{counts.ready}/{counts.wanted}",
        "selector": ",".join(f"{name}={value}" for name, value in selector(gateway).items()),
        "sessions": seen.load.sessions,
        "lag": _lag(seen, before),
        "version": _version(gateway),
    }
    owned = seen.kafka.ownership if seen.kafka is not None else None
    kept = {name: before[name] for name in ("topics", "consumerGroups") if name in before}
    made |= kept if owned is None or owned.earlier else owned.status()
    return {name: value for name, value in made.items() if value is not None}


def invalid_spec(faults: str, generation: int | None, before: Mapping[str, Any], now: str) -> Status:
    """Return the status of a resource that this operator, or the gateway, can't read; what was observed of its pods stays."""
    state = _State("False", "InvalidSpec", f"it is invalid, nothing is changed: {faults}")
    wrong = {
        READY: state,
        RECONCILING: _State("False", state.reason, "nothing is changed"),
        STALLED: _State("True", state.reason, state.message),
        DEGRADED: _State("True", state.reason, state.message),
    }
    kept = {one["type"]: one for one in before.get("conditions") or [] if one["type"] not in wrong}
    made = _conditions(wrong, before.get("conditions") or [], generation, now)
    seen = {} if generation is None else {"observedGeneration": generation}
    return {**before, **seen, "conditions": [*made, *kept.values()]}


def count_pods(deployment: Manifest | None) -> Counts:
    """Count wanted, existing and ready pods; all 0 without a Deployment."""
    if deployment is None:
        return Counts(0, 0, 0, 0, False)
    seen = deployment.get("status") or {}
    wanted = int(deployment["spec"].get("replicas", 1))
    there, updated = int(seen.get("replicas", 0)), int(seen.get("updatedReplicas", 0))
    observed = seen.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return Counts(
        wanted,
        there,
        int(seen.get("readyReplicas", 0)),
        updated,
        not observed or updated < wanted or there > updated,
    )


def _ready(
    gateway: InferenceGateway, seen: Observed, counts: Counts, wrong: Sequence[Problem], kafka: _State
) -> _State:
    if seen.deployment is not None and counts.wanted == 0:
        return _State("False", "ScaledToZero", _no_pods(gateway))
    if counts.ready > 0:
        if counts.rolling:
            return _State("True", "RollingOut", "pods are ready, not yet all of them with the newest template")
        return _State("True", "Serving", f"pods are ready{_at(gateway)}")
    if wrong:
        return _State("False", wrong[0].reason, wrong[0].message)
    if kafka.status == "False":
        return _State("False", "KafkaNotReady", f"the pods wait for Kafka: {kafka.message}")
    if seen.deployment is None:
        return _State("False", "DeploymentNotCreated", "the Deployment has not been created yet")
    reason, awaited = _awaited(seen)
    return _State("False", reason, f"no pod is ready: {awaited}")


def _no_pods(gateway: InferenceGateway) -> str:
    if fixed_replicas(gateway) is None:
        return (
            "no pods are wanted while nothing is queued: requests that wait in Kafka bring them back (scaling.min: 0)"
        )
    return "no pods are wanted: set replicas above 0"


def _progress(
    seen: Observed, counts: Counts, wrong: Sequence[Problem], ready: _State, kafka: _State
) -> dict[str, _State]:
    """Return Reconciling and Stalled: whether the resource is as specified, and if not, whether it gets there by itself."""
    found = [*wrong, *stalled_rollout(seen.deployment)]
    if kafka.status == "False":
        found.append(Problem(kafka.reason, kafka.message))
    awaited = None
    if seen.paused:
        found = []
    elif seen.deployment is None or counts.rolling:
        message = "not yet all pods have the newest template and are ready"
        awaited = (
            Problem("RollingOut", message) if seen.deployment is not None else Problem(ready.reason, ready.message)
        )
    elif ready.status == "False" and ready.reason != "ScaledToZero":
        awaited = Problem(ready.reason, ready.message)
    elif kafka.status == "Unknown":
        awaited = Problem(kafka.reason, kafka.message)
    stalled, reconciling = progress(found, awaited=awaited)
    return {
        RECONCILING: _state_of(reconciling, "AsExpected" if stalled is None else "Stalled", "nothing is under way"),
        STALLED: _state_of(stalled, "NotStalled", "nothing needs anybody to act"),
    }


def _state_of(problem: Problem | None, otherwise: str, message: str) -> _State:
    return _State("True", *problem) if problem is not None else _State("False", otherwise, message)


def _at(gateway: InferenceGateway) -> str:
    return f", clients reach them at Service {gateway.metadata.name}:{gateway.spec.network.service.port}"


def _awaited(seen: Observed) -> tuple[str, str]:
    """Return what pods without a problem are still waiting for: a reason, and a sentence."""
    for pod in sorted(seen.pods, key=lambda pod: pod["metadata"]["name"]):
        name, found = pod["metadata"]["name"], pod.get("status") or {}
        for container in found.get("initContainerStatuses") or []:
            if "running" in (container.get("state") or {}) and not container.get("started"):
                message = f"the model in pod {name} has not reported ready (kubectl logs {name} -c inference)"
                return MODEL_LOADING, message
        for container in found.get("containerStatuses") or []:
            if "running" in (container.get("state") or {}) and not container.get("ready"):
                message = (
                    f"gateway {name} is not ready: it waits for Kafka or the model (kubectl logs {name} -c gateway)"
                )
                return "Starting", message
    return "Starting", "their containers are being created" if seen.pods else "no pod has been created yet"


def _lag(seen: Observed, before: Mapping[str, Any]) -> int | None:
    """Return the lag. Until an operator that has just begun to lead has asked the broker, the last one stands."""
    if seen.kafka is not None:
        return seen.kafka.lag
    return None if seen.paused else before.get("lag")


def _kafka(seen: KafkaState | None, last: _State | None) -> _State:
    """Return KafkaReady. An operator that has just started has not asked yet: until then the last condition stands."""
    if seen is None:
        return last or _State("Unknown", "NotProbed", "the broker has not been probed yet")
    return _State("True" if seen.ready else "False", str(seen.reason), seen.message)


def _is_another_server(gateway: InferenceGateway, load: LoadState) -> bool:
    """Return whether the server isn't podpair-inference: over REST only podpair-inference exports its latency."""
    return load.without_latency and gateway.spec.inference.protocol == "rest"


def _weights_lost(gateway: InferenceGateway, load: LoadState) -> Iterator[Problem]:
    models = [model.name for model in gateway.spec.inference.models if model.versions]
    if models and _is_another_server(gateway, load):
        message = (
            f"the weights of {', '.join(models)} (models[].versions) have no effect: only podpair-inference keeps them, and the"
            " server that answers is another. Leave versions out, and set inference.server: other"
        )
        yield Problem("WeightsNotKept", message)


def _scaling(gateway: InferenceGateway, seen: Observed) -> _State:
    autoscaler, external, fixed = seen.autoscaler, seen.external, fixed_replicas(gateway)
    if fixed is not None:
        return _State("True", "Fixed", _fixed(gateway, fixed))
    wanted = gateway.spec.scaling
    who = "KEDA" if wanted.provider == "keda" else "the HorizontalPodAutoscaler"
    by_others = wanted.provider == "keda" or all(metric.cpu is not None for metric in wanted.metrics)
    why = "" if external is None or external.served or by_others else f"; {external.message}"
    if without := _without_cpu(gateway):
        message = (
            f"scaling by cpu is measured against what the containers request, and {without} of inference.podTemplate"
            " requests no CPU: set its resources.requests.cpu, or scale by another metric"
        )
        return _State("False", "MissingCPURequest", message)
    if _is_another_server(gateway, seen.load) and any(metric.latency is not None for metric in wanted.metrics):
        why += "; only podpair-inference exports its latency, and this server is another: scale by inflight or lag"
    conditions = {one["type"]: one for one in ((autoscaler or {}).get("status") or {}).get("conditions") or []}
    at_zero = wanted.min == 0 and seen.deployment is not None and count_pods(seen.deployment).wanted == 0
    from_pods = any(metric.lag is None and metric.cpu is None for metric in wanted.metrics)
    for kind in ("AbleToScale", "ScalingActive") if wanted.provider == "hpa" else ("Ready",):
        one = conditions.get(kind)
        if at_zero and from_pods and one is not None and one.get("reason") == _TRIGGER_ERROR:
            continue
        if one is not None and one["status"] == "False":
            message = f"{who} can't scale, and holds the number of pods: {one.get('message', '')}"
            return _State("False", one.get("reason") or kind, message + why)
    if not conditions:
        return _State("Unknown", "NotScaledYet", f"{who} has not acted yet{why}")
    measures = ", ".join(sorted({name for metric in wanted.metrics for name in metric.model_fields_set}))
    return _State(
        "True", "Autoscaled", f"{wanted.min} to {wanted.max} pods by {measures}{'; none now' if at_zero else ''}"
    )


def _fixed(gateway: InferenceGateway, fixed: int) -> str:
    scaling = gateway.spec.scaling
    if gateway.spec.replicas is None:
        return f"the number of pods is fixed at {fixed}: scaling.min and scaling.max are the same"
    message = f"spec.replicas (kubectl scale sets it) fixes the number of pods at {fixed}"
    if scaling.min == scaling.max:
        return message
    return (
        f"{message}, and nothing scales them; for {scaling.min} to {scaling.max} pods again take it out:"
        f' kubectl patch igw {gateway.metadata.name} --type=merge -p \'{{"spec":{{"replicas":null}}}}\''
    )


def _without_cpu(gateway: InferenceGateway) -> str:
    spec = pod_template(gateway, "", {})["spec"]
    return " and ".join(str(one.get("name")) for one in containers_without_cpu(gateway, spec))


def _degraded(wrong: Sequence[Problem], kafka: _State, scaling: _State) -> _State:
    """Return Degraded. Its message has all faults, its reason is that of the one nearest to the cause.

    The order: missing references, failed writes, the pods, the broker, the autoscaler.
    """
    found = [*wrong, *(Problem(one.reason, one.message) for one in (kafka, scaling) if one.status == "False")]
    if not found:
        return _State("False", "AsExpected", "nothing is wrong")
    return _State("True", found[0].reason, "; ".join(one.message for one in found))


def _paused(paused: bool) -> _State:
    if paused:
        return _State("True", "Paused", "nothing is written until the annotation podpair.dev/paused is removed")
    return _State("False", "NotPaused", "the operator applies the resource")


def _capped(gateway: InferenceGateway, kafka: KafkaState | None, last: _State | None) -> _State:
    fixed = fixed_replicas(gateway)
    most, field = (gateway.spec.scaling.max, "scaling.max") if fixed is None else (fixed, "the number of pods")
    if kafka is None and last is not None:
        return last
    if kafka is None or kafka.partitions is None:
        return _State("Unknown", "PartitionsNotKnown", "the requests topic is not known yet")
    if kafka.partitions < most:
        return _State(
            "True",
            "TooFewPartitions",
            f"the requests topic has {kafka.partitions} partitions and {field} is {most}: pods beyond the partitions"
            " get no queued work; raise kafka.requests.partitions, or lower it",
        )
    return _State("False", "EnoughPartitions", f"{kafka.partitions} partitions are enough for {most} pods")


def _conditions(
    states: Mapping[str, _State], before: Sequence[Mapping[str, Any]], generation: int | None, now: str
) -> list[dict[str, Any]]:
    last = {one["type"]: one for one in before}
    made = []
    for kind, one in states.items():
        same = kind in last and last[kind]["status"] == one.status
        condition: dict[str, Any] = {
            "type": kind,
            "status": one.status,
            "reason": one.reason,
            "message": stable_message(one.message),
            "lastTransitionTime": last[kind]["lastTransitionTime"] if same else now,
        }
        made.append(condition if generation is None else condition | {"observedGeneration": generation})
    return made


def _version(gateway: InferenceGateway) -> str | None:
    for model in gateway.spec.inference.models[:1]:
        if model.versions:
            return max(model.versions, key=lambda version: version.weight).version
    return None
