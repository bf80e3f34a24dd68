"""What the operator says of what it sees: conditions with reasons that programs rely on, and the events between two of them."""

import re
from typing import Any

import pytest

from harness.processes import ROOT
from harness.resources import resource
from podpair.operator.core.conditions import MODEL_LOADING, Seen, not_understood, status
from podpair.operator.core.events import Change, Event, of_changes, of_status
from podpair.operator.core.external_api_state import ExternalApiSeen
from podpair.operator.core.external_api_state import Reason as Api
from podpair.operator.core.kafka_state import KafkaSeen, Reason
from podpair.operator.core.problems import Problem, problems
from podpair.operator.core.resource.igw import InferenceGateway

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
TOPICS = KafkaSeen(True, Reason.TOPICS_READY, "topics (partitions): a (16)", lag=7, partitions=16)
AWAY = KafkaSeen(False, Reason.BROKER_UNREACHABLE, "no broker answers at kafka:9092")
MISSING = Problem("SecretMissing", "Secret ml/jwt not found")
TAKEN = Problem("NameTaken", "there is a Service digits that is not this resource's")
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


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "an image that isn't": (
        {"inference": waiting("ImagePullBackOff", 'Back-off pulling image "x": not found')},
        "ImagePullFailed",
        "container inference: image inference:1 can't be pulled: not found: correct inference.image",
    ),
    "a gateway's image that isn't": ({"gateway": waiting("ErrImagePull")}, "ImagePullFailed", "correct gateway.image"),
    "an environment that lacks": (
        {"gateway": waiting("CreateContainerConfigError", 'secret "kafka" not found')},
        "ContainerConfigError",
        'container gateway can\'t be started: secret "kafka" not found: mend what it names',
    ),
    "a crash": ({"gateway": ended(1)}, "CrashLooping", "with exit code 1: see kubectl logs digits-a-b -c gateway"),
    "too little memory": ({"inference": ended(137, "OOMKilled")}, "OutOfMemory", "inference.resources.limits.memory"),
    "a model that never gets ready": (
        {"inference": ended(137, then="PodInitializing")},
        "ModelNotReady",
        "did not answer its probes in time",
    ),
    "no node": (
        {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}]},
        "Unschedulable",
        "0/1 nodes: Insufficient cpu: add nodes, or ask for less",
    ),
    "an eviction": ({"phase": "Failed", "reason": "Evicted"}, "PodFailed", "pod digits-a-b failed: Evicted"),
}


@pytest.mark.parametrize(("state", "reason", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_pod_is_told_with_what_to_do(state: dict[str, Any], reason: str, words: str) -> None:
    told = status(gateway(), Seen(deployment(ready=0), pods=[pod(**state)], kafka=TOPICS), {}, NOW)
    assert conditions(told)["Degraded"] == ("True", reason)
    assert conditions(told)["Ready"] == ("False", reason)
    assert words in message(told, "Degraded")


@pytest.mark.parametrize(
    ("refused", "reason"),
    [("exceeded quota: pods=2", "QuotaExceeded"), ("violates PodSecurity", "PodsRefused")],
)
def test_pods_that_can_t_be_made_are_told(refused: str, reason: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": refused}
    (found,) = problems(deployment(ready=0, conditions=[failure]), [], [])
    assert found.reason == reason
    assert refused in found.message


def test_a_rollout_that_is_stuck_is_told_where_nothing_else_explains_it() -> None:
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    seen = deployment(conditions=[stuck])
    assert [one.reason for one in problems(seen, [], [])] == ["RolloutStuck"]
    assert [one.reason for one in problems(seen, [], [pod(gateway=ended(1))])] == ["CrashLooping"]


def test_the_same_thing_is_said_once_for_all_pods_and_old_pods_are_history() -> None:
    newest = {"metadata": {"uid": "new", "annotations": {"deployment.kubernetes.io/revision": "10"}}}
    oldest = {"metadata": {"uid": "old", "annotations": {"deployment.kubernetes.io/revision": "9"}}}
    pods = [pod(gateway=ended(1)) for _ in range(3)]
    for number, (one, owner) in enumerate(zip(pods, ("new", "new", "old"), strict=True)):
        one["metadata"] |= {"name": f"digits-{number}", "ownerReferences": [{"uid": owner}]}
    pods[2]["status"]["containerStatuses"] = [{"name": "gateway", "image": "x", **waiting("ErrImagePull")}]
    assert [one.reason for one in problems(deployment(), [oldest, newest], pods)] == ["CrashLooping"]


def test_a_container_that_is_well_again_is_not_told_of() -> None:
    recovered = {"restartCount": 2, "started": True, "ready": True, "state": {"running": {}}}
    recovered["lastState"] = {"terminated": {"exitCode": 1}}
    assert problems(deployment(), [], [pod(inference=recovered, gateway=recovered)]) == []


def test_of_several_faults_the_one_nearest_to_the_cause_gives_the_reason_and_all_are_told() -> None:
    """What the operator lacks, then what it couldn't write, then the pods, then the broker, then the autoscaler."""
    pods = [pod(gateway=waiting("CreateContainerConfigError"))]
    cause = ["SecretMissing", "NameTaken", "ContainerConfigError", "BrokerUnreachable", "FailedGetScale"]
    scale = {"status": {"conditions": [{"type": "AbleToScale", "status": "False", "reason": "FailedGetScale"}]}}
    seen = [
        Seen(deployment(ready=0), pods=pods, faults=[MISSING, TAKEN], kafka=AWAY, autoscaler=scale),
        Seen(deployment(ready=0), pods=pods, faults=[TAKEN], kafka=AWAY, autoscaler=scale),
        Seen(deployment(ready=0), pods=pods, kafka=AWAY, autoscaler=scale),
        Seen(deployment(ready=0), kafka=AWAY, autoscaler=scale),
        Seen(deployment(ready=0), kafka=TOPICS, autoscaler=scale),
    ]
    told = [status(gateway(), one, {}, NOW) for one in seen]
    assert [conditions(one)["Degraded"] for one in told] == [("True", reason) for reason in cause]
    for words in (MISSING.message, TAKEN.message, "can't be started", AWAY.message, "can't scale"):
        assert words in message(told[0], "Degraded")


def test_all_is_well() -> None:
    scale = {"status": {"conditions": [{"type": kind, "status": "True"} for kind in ("AbleToScale", "ScalingActive")]}}
    told = status(gateway(), Seen(deployment(), kafka=TOPICS, autoscaler=scale, sessions=118), {}, NOW)
    assert conditions(told) == {
        "Ready": ("True", "Serving"),
        "Reconciling": ("False", "AsWanted"),
        "Stalled": ("False", "NotStalled"),
        "KafkaReady": ("True", "TopicsReady"),
        "Scaling": ("True", "Autoscaled"),
        "Degraded": ("False", "AsWanted"),
        "Paused": ("False", "Reconciling"),
        "ReplicasCappedByPartitions": ("False", "EnoughPartitions"),
    }
    assert (told["ready"], told["sessions"], told["lag"], told["observedGeneration"]) == ("2/2", 118, 7, 3)
    assert all(one["observedGeneration"] == 3 for one in told["conditions"])


@pytest.mark.parametrize(
    ("seen", "ready"),
    [
        (Seen(), ("False", "NotMade")),
        (Seen(deployment(wanted=0, ready=0)), ("False", "ScaledToZero")),
        (Seen(deployment(ready=0)), ("False", "Starting")),
        (Seen(deployment(ready=0), pods=[LOADING]), ("False", "ModelLoading")),
        (Seen(deployment(ready=0), kafka=AWAY), ("False", "KafkaNotReady")),
        (Seen(deployment(ready=1)), ("True", "Serving")),
        (Seen(deployment(updated=1)), ("True", "RollingOut")),
        (Seen(deployment(), kafka=AWAY, faults=[MISSING]), ("True", "Serving")),
    ],
)
def test_ready_says_whether_clients_are_served(seen: Seen, ready: tuple[str, str]) -> None:
    assert conditions(status(gateway(), seen, {}, NOW))["Ready"] == ready


def test_an_operator_that_starts_lets_what_the_last_one_saw_stand() -> None:
    before = status(gateway(), Seen(deployment(), kafka=AWAY), {}, THEN)
    after = status(gateway(), Seen(deployment()), before, NOW)
    assert conditions(after)["KafkaReady"] == ("False", "BrokerUnreachable")
    assert after == before
    assert conditions(status(gateway(), Seen(), {}, NOW))["KafkaReady"] == ("Unknown", "NotAsked")
    assert "lag" not in after  # what isn't known is left out


def test_an_unchanged_resource_has_an_unchanged_status_and_times_move_with_statuses_only() -> None:
    seen = Seen(deployment(), kafka=TOPICS)
    before = status(gateway(), seen, {}, THEN)
    assert status(gateway(), seen, before, NOW) == before
    after = status(gateway(), Seen(deployment(ready=0), kafka=TOPICS), before, NOW)
    times = {one["type"]: one["lastTransitionTime"] for one in after["conditions"]}
    assert (times["Ready"], times["KafkaReady"]) == (NOW, THEN)


def test_pods_beyond_the_partitions_that_the_topic_really_has_are_told() -> None:
    narrow = KafkaSeen(False, Reason.REPARTITION_REFUSED, "…", partitions=3)
    told = status(gateway(scaling={"min": 1, "max": 4}), Seen(kafka=narrow), {}, NOW)
    assert conditions(told)["ReplicasCappedByPartitions"] == ("True", "TooFewPartitions")
    assert "the requests topic has 3 partitions and scaling.max is 4" in message(told, "ReplicasCappedByPartitions")
    fixed = status(gateway(replicas=5), Seen(kafka=narrow), {}, NOW)
    assert "the number of pods is 5" in message(fixed, "ReplicasCappedByPartitions")
    unknown = conditions(status(gateway(), Seen(kafka=AWAY), {}, NOW))
    assert unknown["ReplicasCappedByPartitions"] == ("Unknown", "PartitionsNotKnown")


def test_an_autoscaler_that_reads_nothing_is_told_with_who_owns_the_metrics() -> None:
    other = ExternalApiSeen(False, Api.OWNED_BY_OTHER, "external.metrics.k8s.io is keda's")
    off = {"type": "ScalingActive", "status": "False", "reason": "FailedGetExternalMetric", "message": "no metrics"}
    seen = Seen(deployment(), autoscaler={"status": {"conditions": [off]}}, external=other, kafka=TOPICS)
    told = status(gateway(scaling=EXTERNAL), seen, {}, NOW)
    assert conditions(told)["Scaling"] == ("False", "FailedGetExternalMetric")
    assert message(told, "Scaling").endswith("no metrics; external.metrics.k8s.io is keda's")
    by_cpu = status(gateway(scaling={"max": 4, "metrics": [{"cpu": 50}]}), seen, {}, NOW)
    assert "keda" not in message(by_cpu, "Scaling")


def test_what_can_t_be_read_changes_nothing_else() -> None:
    before = status(gateway(), Seen(deployment(), kafka=TOPICS), {}, THEN)
    told = not_understood("spec.new: unknown", 4, before, NOW)
    assert conditions(told)["Ready"] == ("False", "NotUnderstood")
    assert conditions(told)["KafkaReady"] == ("True", "TopicsReady")
    assert (told["ready"], told["lag"]) == ("2/2", 7)


def stories(*seen: Seen, **changed: Any) -> list[tuple[str, str, str]]:
    """The events of a resource that is seen so, one after the other."""
    before: dict[str, Any] = {}
    told: list[Event] = []
    for one in seen:
        after = status(gateway(**changed), one, before, NOW)
        told += of_status(before, after, one.deployment)
        before = after
    return [(one.type, one.reason, one.message) for one in told]


def test_events_tell_the_story_once() -> None:
    starting, up = Seen(deployment(ready=0), kafka=AWAY), Seen(deployment(), kafka=TOPICS)
    loading, rolling = (
        Seen(deployment(ready=0), pods=[LOADING], kafka=TOPICS),
        Seen(deployment(updated=1), kafka=TOPICS),
    )
    told = stories(starting, starting, up, up, rolling, up, starting, replicas=2)
    assert [(kind, reason) for kind, reason, _ in told] == [
        ("Warning", "BrokerUnreachable"),
        ("Normal", "Ready"),
        ("Normal", "TopicsReady"),
        ("Normal", "Mended"),
        ("Normal", "Rolled"),
        ("Warning", "NotReady"),
        ("Warning", "BrokerUnreachable"),
    ]
    assert told[1][2] == "Deployment digits runs digits:3: 2/2 pods ready, clients reach them at Service digits:80"
    assert told[3][2] == "no longer BrokerUnreachable: no broker answers at kafka:9092"
    (told_once,) = [one for one in stories(loading, loading, up, replicas=2) if one[1] == "ModelLoading"]
    assert told_once[0] == "Normal"
    assert "the model in pod digits-a-b has not said that it is ready" in told_once[2]


def test_events_tell_of_faults_that_no_other_condition_tells() -> None:
    told = stories(Seen(faults=[TAKEN]), Seen(deployment(), kafka=TOPICS, paused=True), replicas=2)
    assert ("Warning", "NameTaken", TAKEN.message) in told
    assert ("Normal", "Mended", f"no longer NameTaken: {TAKEN.message}") in told
    assert any(reason == "Paused" for _, reason, _ in told)


def test_events_tell_what_was_done_and_who_undid_it() -> None:
    changes = [
        Change("made", "Service digits"),
        Change("made", "Deployment digits"),
        Change("removed", "Ingress digits"),
        Change("remade", "ConfigMap digits-gateway"),
        Change("restored", "Service digits", "kubectl-edit"),
    ]
    assert [(one.reason, one.message) for one in of_changes(changes)] == [
        ("Made", "made Service digits, Deployment digits"),
        ("Removed", "removed Ingress digits"),
        ("Restored", "ConfigMap digits-gateway was deleted: made again"),
        ("Restored", "Service digits was not as the resource says (written by kubectl-edit): put back"),
    ]
    (long,) = of_changes([Change("made", "x" * 2000)])
    assert len(long.message) == 1024


def test_every_reason_is_explained() -> None:
    """Programs rely on them, and people look them up in docs/conditions.md."""
    source = ROOT / "operator" / "src" / "podpair" / "operator"
    code = "\n".join(file.read_text() for folder in ("core", "reconciling") for file in (source / folder).glob("*.py"))
    told = set(re.findall(r'_Told\(\s*"(?:True|False|Unknown)",\s*"([A-Z]\w+)"', code))
    told |= set(re.findall(r'Problem\(\s*"([A-Z]\w+)"', code)) | {str(one) for one in Reason}
    # Those that aren't written in one piece.
    told |= {"SecretMissing", "ConfigMapMissing", "PodsRefused", "Starting", MODEL_LOADING}
    assert {"NameTaken", "ImagePullFailed", "TopicsReady", "Serving", "PartitionsNotKnown"} <= told
    page = (ROOT / "docs" / "conditions.md").read_text()
    explained = {
        reason for row in re.findall(r"^\| (`[A-Z].*?) \|", page, re.MULTILINE) for reason in re.findall(r"\w+", row)
    }
    kinds = {
        "Ready",
        "Reconciling",
        "Stalled",
        "KafkaReady",
        "Scaling",
        "Degraded",
        "Paused",
        "ReplicasCappedByPartitions",
    }
    assert told - explained == set()
    assert explained - kinds - told == set()
