"""What the operator observes of a resource, made up for tests: Deployments, pods, states of Kafka."""

from typing import Any

from harness.resources import resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.conditions import Observed, status
from podpair.operator.core.events import Event, status_events
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.pod_diagnosis import Problem

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


TOPICS = KafkaState(True, Reason.TOPICS_READY, "topics (partitions): a (16)", lag=7, partitions=16)


AWAY = KafkaState(False, Reason.BROKER_UNREACHABLE, "no broker answers at kafka:9092")


MISSING = Problem("SecretMissing", "Secret ml/jwt not found")


TAKEN = Problem("NameConflict", "there is a Service digits that is not this resource's")


EXTERNAL = {"min": 1, "max": 4, "metrics": [{"lag": 5}]}


def gateway(**changed: Any) -> InferenceGateway:
    made = resource(**changed)
    made["metadata"] |= {"uid": "u", "generation": 3}
    return InferenceGateway.model_validate(made)


def deployment(*, ready: int = 2, wanted: int = 2, updated: int = 2, **status: Any) -> dict[str, Any]:
    template = {"spec": {"initContainers": [{"name": "inference", "image": "digits:3"}]}}
    seen = {"observedGeneration": 1, "replicas": wanted, "readyReplicas": ready, "updatedReplicas": updated}
    metadata = {"name": "digits", "generation": 1}
    return {"metadata": metadata, "spec": {"replicas": wanted, "template": template}, "status": seen | status}


def pod(
    inference: dict[str, Any] | None = None, gateway: dict[str, Any] | None = None, **status: Any
) -> dict[str, Any]:
    told = {
        key: [{"name": name, "image": f"{name}:1", "restartCount": 0, "ready": False, **found}]
        for key, name, found in (
            ("initContainerStatuses", "inference", inference),
            ("containerStatuses", "gateway", gateway),
        )
        if found is not None
    }
    return {"metadata": {"name": "digits-a-b"}, "status": {**told, **status}}


LOADING = pod({"state": {"running": {}}, "started": False}, {"state": {"waiting": {"reason": "PodInitializing"}}})


def conditions(told: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in told["conditions"]}


def message(told: dict[str, Any], kind: str) -> str:
    return next(str(one["message"]) for one in told["conditions"] if one["type"] == kind)


def waiting(reason: str, said: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": said}}}


def ended(code: int, why: str = "Error", then: str = "CrashLoopBackOff") -> dict[str, Any]:
    return {**waiting(then), "restartCount": 2, "lastState": {"terminated": {"exitCode": code, "reason": why}}}


def stories(*seen: Observed, **changed: Any) -> list[tuple[str, str, str]]:
    """The events of a resource that is seen so, one after the other."""
    before: dict[str, Any] = {}
    told: list[Event] = []
    for one in seen:
        after = status(gateway(**changed), one, before, NOW)
        told += status_events(before, after, one.deployment)
        before = after
    return [(one.type, one.reason, one.message) for one in told]
