"""Status: what has been observed, as conditions that people read and programs rely on.

A pure function of the observations and of the last status. A condition's lastTransitionTime moves only where its status does,
and a message holds nothing that changes while nothing happens, so an unchanged resource has an unchanged status.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podpair.operator.core.external_api_state import ExternalApiSeen
from podpair.operator.core.kafka_state import KafkaSeen
from podpair.operator.core.load import LoadSeen
from podpair.operator.core.messages import stable_message
from podpair.operator.core.objects.naming import Manifest, selector
from podpair.operator.core.objects.pods import containers_without_cpu, fixed_replicas, pod_template
from podpair.operator.core.problems import Problem, problems, stuck
from podpair.operator.core.progress import RECONCILING, STALLED, progress
from podpair.operator.core.resource.igw import InferenceGateway

Status = dict[str, Any]
READY, KAFKA, SCALING, DEGRADED, PAUSED, CAPPED = (
    "Ready",
    "KafkaReady",
    "Scaling",
    "Degraded",
    "Paused",
    "ReplicasCappedByPartitions",
)
MODEL_LOADING = "ModelLoading"  # why Ready is False while a model takes its time


@dataclass(frozen=True)
class Seen:
    """What was observed of a resource's surroundings. None is: not known."""

    deployment: Manifest | None = None
    replica_sets: Sequence[Manifest] = ()
    pods: Sequence[Manifest] = ()
    autoscaler: Manifest | None = None
    """The HorizontalPodAutoscaler, or the ScaledObject."""
    faults: Sequence[Problem] = ()
    """What hindered the operator itself: permissions, names that are taken, Secrets that are missing."""
    kafka: KafkaSeen | None = None
    external: ExternalApiSeen | None = None
    """Who serves the external metrics that a HorizontalPodAutoscaler reads."""
    load: LoadSeen = field(default_factory=LoadSeen)
    paused: bool = False


@dataclass(frozen=True)
class _Told:
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


def status(gateway: InferenceGateway, seen: Seen, before: Mapping[str, Any], now: str) -> Status:
    """The resource's status. `before` is the last one; `now` an RFC 3339 time for conditions that have changed."""
    counts = counted(seen.deployment)
    wrong = [*seen.faults, *problems(seen.deployment, seen.replica_sets, seen.pods), *_weights_lost(gateway, seen.load)]
    scaling = _scaling(gateway, seen)
    last = {one["type"]: _Told(one["status"], one["reason"], one["message"]) for one in before.get("conditions") or []}
    kafka = _kafka(seen.kafka, last.get(KAFKA))
    ready = _ready(gateway, seen, counts, wrong, kafka)
    told = {
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
        "conditions": _conditions(told, before.get("conditions") or [], generation, now),
        "replicas": counts.there,
        "readyReplicas": counts.ready,
        "ready": f"{counts.ready}/{counts.wanted}",
        "selector": ",".join(f"{name}={value}" for name, value in selector(gateway).items()),
        "sessions": seen.load.sessions,
        "lag": seen.kafka.lag if seen.kafka is not None else None,
        "version": _version(gateway),
    }
    owned = seen.kafka.remembered if seen.kafka is not None else None
    kept = {name: before[name] for name in ("topics", "consumerGroups") if name in before}
    made |= kept if owned is None or owned.earlier else owned.status()
    return {name: value for name, value in made.items() if value is not None}


def not_understood(faults: str, generation: int | None, before: Mapping[str, Any], now: str) -> Status:
    """The status of a resource that this operator can't read; what was seen of its pods stays."""
    told = _Told("False", "InvalidSpec", f"this operator can't read it, nothing is changed: {faults}")
    wrong = {
        READY: told,
        RECONCILING: _Told("False", told.reason, "nothing is changed"),
        STALLED: _Told("True", told.reason, told.message),
        DEGRADED: _Told("True", told.reason, told.message),
    }
    kept = {one["type"]: one for one in before.get("conditions") or [] if one["type"] not in wrong}
    made = _conditions(wrong, before.get("conditions") or [], generation, now)
    seen = {} if generation is None else {"observedGeneration": generation}
    return {**before, **seen, "conditions": [*made, *kept.values()]}


def counted(deployment: Manifest | None) -> Counts:
    """Pods that are wanted, there and ready; all 0 where there is no Deployment."""
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


def _ready(gateway: InferenceGateway, seen: Seen, counts: Counts, wrong: Sequence[Problem], kafka: _Told) -> _Told:
    if seen.deployment is not None and counts.wanted == 0:
        return _Told("False", "ScaledToZero", "no pods are wanted: set replicas above 0")
    if counts.ready > 0:
        if counts.rolling:
            return _Told("True", "RollingOut", "pods are ready, not yet all of them with the newest template")
        return _Told("True", "Serving", f"pods are ready{_at(gateway)}")
    if wrong:
        return _Told("False", wrong[0].reason, wrong[0].message)
    if kafka.status == "False":
        return _Told("False", "KafkaNotReady", f"the pods wait for Kafka: {kafka.message}")
    if seen.deployment is None:
        return _Told("False", "DeploymentNotCreated", "the Deployment has not been made yet")
    reason, awaited = _awaited(seen)
    return _Told("False", reason, f"no pod is ready: {awaited}")


def _progress(seen: Seen, counts: Counts, wrong: Sequence[Problem], ready: _Told, kafka: _Told) -> dict[str, _Told]:
    """Whether the resource is what it says by now, and whether that comes by itself."""
    found = [*wrong, *stuck(seen.deployment)]
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
        RECONCILING: _told(reconciling, "AsExpected" if stalled is None else "Stalled", "nothing is under way"),
        STALLED: _told(stalled, "NotStalled", "nothing waits for somebody to do something"),
    }


def _told(problem: Problem | None, otherwise: str, message: str) -> _Told:
    return _Told("True", *problem) if problem is not None else _Told("False", otherwise, message)


def _at(gateway: InferenceGateway) -> str:
    return f", clients reach them at Service {gateway.metadata.name}:{gateway.spec.network.service.port}"


def _awaited(seen: Seen) -> tuple[str, str]:
    """What pods that have nothing wrong are still waiting for: a reason, and words."""
    for pod in sorted(seen.pods, key=lambda pod: pod["metadata"]["name"]):
        name, found = pod["metadata"]["name"], pod.get("status") or {}
        for container in found.get("initContainerStatuses") or []:
            if "running" in (container.get("state") or {}) and not container.get("started"):
                told = f"the model in pod {name} has not said that it is ready (kubectl logs {name} -c inference)"
                return MODEL_LOADING, told
        for container in found.get("containerStatuses") or []:
            if "running" in (container.get("state") or {}) and not container.get("ready"):
                told = f"gateway {name} is not ready: it waits for Kafka or the model (kubectl logs {name} -c gateway)"
                return "Starting", told
    return "Starting", "their containers are being made" if seen.pods else "no pod has been made yet"


def _kafka(seen: KafkaSeen | None, last: _Told | None) -> _Told:
    """An operator that has just started has not asked yet: until then what the last one saw stands."""
    if seen is None:
        return last or _Told("Unknown", "NotProbed", "the broker has not been asked yet")
    return _Told("True" if seen.ready else "False", str(seen.reason), seen.message)


def _is_another_server(gateway: InferenceGateway, load: LoadSeen) -> bool:
    """The image's name doesn't tell, but over REST podpair-inference tells its latency, and no other server does."""
    return load.without_latency and gateway.spec.inference.protocol == "rest"


def _weights_lost(gateway: InferenceGateway, load: LoadSeen) -> Iterator[Problem]:
    models = [model.name for model in gateway.spec.inference.models if model.versions]
    if models and _is_another_server(gateway, load):
        message = (
            f"the weights of {', '.join(models)} (models[].versions) have no effect: only podpair-inference keeps them, and the"
            " server that answers is another. Leave versions out, and set inference.server: other"
        )
        yield Problem("WeightsNotKept", message)


def _scaling(gateway: InferenceGateway, seen: Seen) -> _Told:
    autoscaler, external, fixed = seen.autoscaler, seen.external, fixed_replicas(gateway)
    if fixed is not None:
        return _Told("True", "Fixed", _fixed(gateway, fixed))
    wanted = gateway.spec.scaling
    who = "KEDA" if wanted.provider == "keda" else "the HorizontalPodAutoscaler"
    by_others = wanted.provider == "keda" or all(metric.cpu is not None for metric in wanted.metrics)
    why = "" if external is None or external.served or by_others else f"; {external.message}"
    if without := _without_cpu(gateway):
        message = (
            f"scaling by cpu is measured against what the containers request, and {without} of inference.podTemplate"
            " requests no CPU: set its resources.requests.cpu, or scale by another metric"
        )
        return _Told("False", "MissingCPURequest", message)
    if _is_another_server(gateway, seen.load) and any(metric.latency is not None for metric in wanted.metrics):
        why += "; latency is told by podpair-inference only, and the server that answers is another: scale by inflight or lag"
    conditions = {one["type"]: one for one in ((autoscaler or {}).get("status") or {}).get("conditions") or []}
    for kind in ("AbleToScale", "ScalingActive") if wanted.provider == "hpa" else ("Ready",):
        one = conditions.get(kind)
        if one is not None and one["status"] == "False":
            message = f"{who} can't scale, and holds the number of pods: {one.get('message', '')}"
            return _Told("False", one.get("reason") or kind, message + why)
    if not conditions:
        return _Told("Unknown", "NotScaledYet", f"{who} has not looked at it yet{why}")
    measures = ", ".join(sorted({name for metric in wanted.metrics for name in metric.model_fields_set}))
    return _Told("True", "Autoscaled", f"{wanted.min} to {wanted.max} pods by {measures}")


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


def _degraded(wrong: Sequence[Problem], kafka: _Told, scaling: _Told) -> _Told:
    """The reason is that of the fault nearest to the cause: what the resource names and isn't there, what couldn't be written,
    the pods, the broker, the autoscaler. The message has all of them.
    """
    found = [*wrong, *(Problem(one.reason, one.message) for one in (kafka, scaling) if one.status == "False")]
    if not found:
        return _Told("False", "AsExpected", "nothing is wrong")
    return _Told("True", found[0].reason, "; ".join(one.message for one in found))


def _paused(paused: bool) -> _Told:
    if paused:
        return _Told("True", "Paused", "nothing is written until the annotation podpair.dev/paused is removed")
    return _Told("False", "NotPaused", "the resource is kept as it says")


def _capped(gateway: InferenceGateway, kafka: KafkaSeen | None, last: _Told | None) -> _Told:
    fixed = fixed_replicas(gateway)
    most, field = (gateway.spec.scaling.max, "scaling.max") if fixed is None else (fixed, "the number of pods")
    if kafka is None and last is not None:
        return last
    if kafka is None or kafka.partitions is None:
        return _Told("Unknown", "PartitionsNotKnown", "the requests topic has not been seen yet")
    if kafka.partitions < most:
        return _Told(
            "True",
            "TooFewPartitions",
            f"the requests topic has {kafka.partitions} partitions and {field} is {most}: pods beyond the partitions"
            " get no queued work; raise kafka.requests.partitions, or lower it",
        )
    return _Told("False", "EnoughPartitions", f"{kafka.partitions} partitions are enough for {most} pods")


def _conditions(
    told: Mapping[str, _Told], before: Sequence[Mapping[str, Any]], generation: int | None, now: str
) -> list[dict[str, Any]]:
    last = {one["type"]: one for one in before}
    made = []
    for kind, one in told.items():
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
