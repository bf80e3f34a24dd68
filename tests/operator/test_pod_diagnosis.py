"""What is wrong with pods, and what to do: the reasons are Kubernetes' own."""

from typing import Any

import pytest

from harness.observations import NOW, TOPICS, conditions, deployment, ended, gateway, message, pod, waiting
from podpair.operator.core.conditions import Observed, status
from podpair.operator.core.pod_diagnosis import diagnose

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "an image that isn't": (
        {"inference": waiting("ImagePullBackOff", 'Back-off pulling image "x": not found')},
        "ImagePullBackOff",
        "container inference: image inference:1 can't be pulled: not found: correct inference.image",
    ),
    "a gateway's image that isn't": ({"gateway": waiting("ErrImagePull")}, "ImagePullBackOff", "correct gateway.image"),
    "an environment that lacks": (
        {"gateway": waiting("CreateContainerConfigError", 'secret "kafka" not found')},
        "CreateContainerConfigError",
        'container gateway can\'t be started: secret "kafka" not found: correct what it names',
    ),
    "an image that runs as root": (
        {
            "inference": waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root (pod: x, container: y)",
            )
        },
        "CreateContainerConfigError",
        "image will run as root (pod: x, container: y): set inference.runAsUser to the number of a user",
    ),
    "an image whose user has a name": (
        {
            "inference": waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image has non-numeric user (triton), cannot verify user is non-root",
            )
        },
        "CreateContainerConfigError",
        "set inference.runAsUser",
    ),
    "an image with a name that can't be": (
        {"gateway": waiting("InvalidImageName")},
        "InvalidImageName",
        "gateway.image",
    ),
    "a crash": ({"gateway": ended(1)}, "CrashLoopBackOff", "with exit code 1: see kubectl logs digits-a-b -c gateway"),
    "too little memory": ({"inference": ended(137, "OOMKilled")}, "OOMKilled", "inference.resources.limits.memory"),
    "a model that never gets ready": (
        {"inference": ended(137, then="PodInitializing")},
        "ModelNotReady",
        "did not answer its probes in time",
    ),
    "no node": (
        {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient cpu."}
            ]
        },
        "Unschedulable",
        "no nodes are available: Insufficient cpu: add nodes, or ask for less",
    ),
    "an eviction": ({"phase": "Failed", "reason": "Evicted"}, "PodFailed", "pod digits-a-b failed: Evicted"),
}


@pytest.mark.parametrize(("state", "reason", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_pod_is_told_with_what_to_do(state: dict[str, Any], reason: str, words: str) -> None:
    told = status(gateway(), Observed(deployment(ready=0), pods=[pod(**state)], kafka=TOPICS), {}, NOW)
    assert conditions(told)["Degraded"] == ("True", reason)
    assert conditions(told)["Ready"] == ("False", reason)
    assert words in message(told, "Degraded")


@pytest.mark.parametrize(
    ("refused", "reason"),
    [("exceeded quota: pods=2", "QuotaExceeded"), ("violates PodSecurity", "FailedCreate")],
)
def test_pods_that_can_t_be_made_are_told(refused: str, reason: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": refused}
    (found,) = diagnose(deployment(ready=0, conditions=[failure]), [], [])
    assert found.reason == reason
    assert refused in found.message


def test_a_rollout_that_is_stuck_is_told_where_nothing_else_explains_it() -> None:
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    seen = deployment(conditions=[stuck])
    assert [one.reason for one in diagnose(seen, [], [])] == ["ProgressDeadlineExceeded"]
    assert [one.reason for one in diagnose(seen, [], [pod(gateway=ended(1))])] == ["CrashLoopBackOff"]


def test_the_same_thing_is_said_once_for_all_pods_and_old_pods_are_history() -> None:
    newest = {"metadata": {"uid": "new", "annotations": {"deployment.kubernetes.io/revision": "10"}}}
    oldest = {"metadata": {"uid": "old", "annotations": {"deployment.kubernetes.io/revision": "9"}}}
    pods = [pod(gateway=ended(1)) for _ in range(3)]
    for number, (one, owner) in enumerate(zip(pods, ("new", "new", "old"), strict=True)):
        one["metadata"] |= {"name": f"digits-{number}", "ownerReferences": [{"uid": owner}]}
    pods[2]["status"]["containerStatuses"] = [{"name": "gateway", "image": "x", **waiting("ErrImagePull")}]
    assert [one.reason for one in diagnose(deployment(), [oldest, newest], pods)] == ["CrashLoopBackOff"]


def test_a_container_that_is_well_again_is_not_told_of() -> None:
    recovered = {"restartCount": 2, "started": True, "ready": True, "state": {"running": {}}}
    recovered["lastState"] = {"terminated": {"exitCode": 1}}
    assert diagnose(deployment(), [], [pod(inference=recovered, gateway=recovered)]) == []
