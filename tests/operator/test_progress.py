"""What tools that judge by kstatus take a resource for, in each phase of its life: its own library says so."""

from typing import Any

import pytest

from harness.kstatus import judge
from harness.resources import resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.conditions import Observed, invalid_spec, status
from podpair.operator.core.crd import crd
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.pod_diagnosis import Problem

pytestmark = pytest.mark.process

NOW = "2026-01-02T00:00:00Z"
TOPICS = KafkaState(True, Reason.TOPICS_READY, "topics", partitions=16)
OLD = {"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2}


def manifest(generation: int = 2) -> dict[str, Any]:
    made = resource()
    made["metadata"] |= {"uid": "u", "generation": generation, "namespace": "ml"}
    return made


def judged(seen: Observed, before: dict[str, Any] | None = None) -> str:
    made = manifest()
    return judge({**made, "status": status(InferenceGateway.model_validate(made), seen, before or {}, NOW)})


def deployment(generation: int = 1, wanted: int = 2, **seen: Any) -> dict[str, Any]:
    spec = {"replicas": wanted, "template": {"spec": {}}}
    return {"metadata": {"name": "digits", "generation": generation}, "spec": spec, "status": OLD | seen}


def fault(reason: str) -> list[Problem]:
    return [Problem(reason, "it is so")]


STUCK = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too late"}]
PHASES: dict[str, tuple[Observed, str]] = {
    "nothing is made": (Observed(), "InProgress"),
    "the Deployment is new": (Observed(deployment(observedGeneration=0, readyReplicas=0), kafka=TOPICS), "InProgress"),
    "pods are on their way": (Observed(deployment(readyReplicas=0), kafka=TOPICS), "InProgress"),
    "pods are ready, the broker was not asked": (Observed(deployment()), "InProgress"),
    "all is well": (Observed(deployment(), kafka=TOPICS), "Current"),
    "a new template, which the Deployment has not seen": (Observed(deployment(2), kafka=TOPICS), "InProgress"),
    "a rollout, while old pods serve": (Observed(deployment(updatedReplicas=1, replicas=3), kafka=TOPICS), "InProgress"),
    "a rollout whose time is up, while old pods serve": (
        Observed(deployment(updatedReplicas=1, replicas=3, conditions=STUCK), kafka=TOPICS), "Failed",
    ),
    "a spec that is refused, while old pods serve": (Observed(deployment(), kafka=TOPICS, faults=fault("Refused")), "Failed"),
    "a spec that is refused from the beginning": (Observed(faults=fault("Refused")), "Failed"),
    "a name that is taken": (Observed(faults=fault("NameConflict")), "Failed"),
    "a permission that lacks": (Observed(deployment(), kafka=TOPICS, faults=fault("NotPermitted")), "Failed"),
    "a Secret that is yet to come": (Observed(deployment(readyReplicas=0), faults=fault("SecretMissing")), "InProgress"),
    "a webhook that is away": (Observed(deployment(), kafka=TOPICS, faults=fault("WebhookFailed")), "InProgress"),
    "a broker that is away": (
        Observed(deployment(), kafka=KafkaState(False, Reason.BROKER_UNREACHABLE, "nobody")), "InProgress",
    ),
    "a broker that refuses a topic": (Observed(deployment(), kafka=KafkaState(False, Reason.TOPIC_REFUSED, "no")), "Failed"),
    "paused, and well": (Observed(deployment(), kafka=TOPICS, paused=True), "Current"),
}  # fmt: skip


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase(phase: str) -> None:
    seen, taken_for = PHASES[phase]
    assert judged(seen) == taken_for


def test_before_the_operator_has_looked() -> None:
    default = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    assert judge({**manifest(), "status": default}) == "InProgress"


def test_a_change_that_the_operator_has_not_seen() -> None:
    well = status(InferenceGateway.model_validate(manifest(1)), Observed(deployment(), kafka=TOPICS), {}, NOW)
    assert judge({**manifest(1), "status": well}) == "Current"
    assert judge({**manifest(2), "status": well}) == "InProgress"


def test_one_that_is_not_understood() -> None:
    well = status(InferenceGateway.model_validate(manifest(1)), Observed(deployment(), kafka=TOPICS), {}, NOW)
    assert judge({**manifest(2), "status": invalid_spec("a field", 2, well, NOW)}) == "Failed"


def test_one_that_goes() -> None:
    made = manifest()
    made["metadata"] |= {"deletionTimestamp": NOW, "finalizers": ["podpair.dev/topics"]}
    assert judge({**made, "status": {"observedGeneration": 2}}) == "Terminating"
