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
from podpair.operator.core.load import LoadSeen
from podpair.operator.core.problems import Problem, problems
from podpair.operator.core.resource.igw import InferenceGateway

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
TOPICS = KafkaSeen(True, Reason.TOPICS_READY, "topics (partitions): a (16)", lag=7, partitions=16)
AWAY = KafkaSeen(False, Reason.BROKER_UNREACHABLE, "no broker answers at kafka:9092")
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
        'container gateway can\'t be started: secret "kafka" not found: mend what it names',
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
    told = status(gateway(), Seen(deployment(ready=0), pods=[pod(**state)], kafka=TOPICS), {}, NOW)
    assert conditions(told)["Degraded"] == ("True", reason)
    assert conditions(told)["Ready"] == ("False", reason)
    assert words in message(told, "Degraded")


@pytest.mark.parametrize(
    ("refused", "reason"),
    [("exceeded quota: pods=2", "QuotaExceeded"), ("violates PodSecurity", "FailedCreate")],
)
def test_pods_that_can_t_be_made_are_told(refused: str, reason: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": refused}
    (found,) = problems(deployment(ready=0, conditions=[failure]), [], [])
    assert found.reason == reason
    assert refused in found.message


def test_a_rollout_that_is_stuck_is_told_where_nothing_else_explains_it() -> None:
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    seen = deployment(conditions=[stuck])
    assert [one.reason for one in problems(seen, [], [])] == ["ProgressDeadlineExceeded"]
    assert [one.reason for one in problems(seen, [], [pod(gateway=ended(1))])] == ["CrashLoopBackOff"]


def test_the_same_thing_is_said_once_for_all_pods_and_old_pods_are_history() -> None:
    newest = {"metadata": {"uid": "new", "annotations": {"deployment.kubernetes.io/revision": "10"}}}
    oldest = {"metadata": {"uid": "old", "annotations": {"deployment.kubernetes.io/revision": "9"}}}
    pods = [pod(gateway=ended(1)) for _ in range(3)]
    for number, (one, owner) in enumerate(zip(pods, ("new", "new", "old"), strict=True)):
        one["metadata"] |= {"name": f"digits-{number}", "ownerReferences": [{"uid": owner}]}
    pods[2]["status"]["containerStatuses"] = [{"name": "gateway", "image": "x", **waiting("ErrImagePull")}]
    assert [one.reason for one in problems(deployment(), [oldest, newest], pods)] == ["CrashLoopBackOff"]


def test_a_container_that_is_well_again_is_not_told_of() -> None:
    recovered = {"restartCount": 2, "started": True, "ready": True, "state": {"running": {}}}
    recovered["lastState"] = {"terminated": {"exitCode": 1}}
    assert problems(deployment(), [], [pod(inference=recovered, gateway=recovered)]) == []


def test_of_several_faults_the_one_nearest_to_the_cause_gives_the_reason_and_all_are_told() -> None:
    """What the operator lacks, then what it couldn't write, then the pods, then the broker, then the autoscaler."""
    pods = [pod(gateway=waiting("CreateContainerConfigError"))]
    cause = ["SecretMissing", "NameConflict", "CreateContainerConfigError", "BrokerUnreachable", "FailedGetScale"]
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
    told = status(gateway(), Seen(deployment(), kafka=TOPICS, autoscaler=scale, load=LoadSeen(sessions=118)), {}, NOW)
    assert conditions(told) == {
        "Ready": ("True", "Serving"),
        "Reconciling": ("False", "AsExpected"),
        "Stalled": ("False", "NotStalled"),
        "KafkaReady": ("True", "TopicsReady"),
        "Scaling": ("True", "Autoscaled"),
        "Degraded": ("False", "AsExpected"),
        "Paused": ("False", "NotPaused"),
        "ReplicasCappedByPartitions": ("False", "EnoughPartitions"),
    }
    assert (told["ready"], told["sessions"], told["lag"], told["observedGeneration"]) == ("2/2", 118, 7, 3)
    assert all(one["observedGeneration"] == 3 for one in told["conditions"])


@pytest.mark.parametrize(
    ("seen", "ready"),
    [
        (Seen(), ("False", "DeploymentNotCreated")),
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
    assert conditions(status(gateway(), Seen(), {}, NOW))["KafkaReady"] == ("Unknown", "NotProbed")
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
    assert conditions(told)["Ready"] == ("False", "InvalidSpec")
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


OTHER_SERVER = LoadSeen(without_latency=True)


def test_weights_that_another_s_server_does_not_keep_are_told() -> None:
    """An image's name doesn't tell what is in it: what its pods tell of themselves does."""
    weighted = gateway(replicas=2)
    told = status(weighted, Seen(deployment(), kafka=TOPICS, load=OTHER_SERVER), {}, NOW)
    assert conditions(told)["Degraded"] == conditions(told)["Stalled"] == ("True", "WeightsNotKept")
    assert conditions(told)["Ready"] == ("True", "Serving")  # clients are served none the less
    assert "the weights of digits (models[].versions) have no effect" in message(told, "Degraded")


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({}, LoadSeen(sessions=3)),
        ({"inference__models": [{"name": "digits"}]}, OTHER_SERVER),
        ({"inference__protocol": "grpc"}, OTHER_SERVER),  # over which nobody tells any
    ],
)
def test_nothing_is_told_where_weights_are_kept_or_not_wanted(changed: dict[str, Any], seen: LoadSeen) -> None:
    told = status(gateway(replicas=2, **changed), Seen(deployment(), kafka=TOPICS, load=seen), {}, NOW)
    assert conditions(told)["Degraded"] == ("False", "AsExpected")


def test_scaling_by_the_latency_of_another_s_server_is_told_what_to_scale_by() -> None:
    failed = {
        "type": "ScalingActive",
        "status": "False",
        "reason": "FailedGetExternalMetric",
        "message": "not known now",
    }
    scaler = {"status": {"conditions": [{"type": "AbleToScale", "status": "True"}, failed]}}
    wanted = gateway(scaling={"min": 1, "max": 4, "metrics": [{"latency": "50ms"}]})
    told = status(wanted, Seen(deployment(), kafka=TOPICS, autoscaler=scaler, load=OTHER_SERVER), {}, NOW)
    assert conditions(told)["Scaling"] == ("False", "FailedGetExternalMetric")
    assert "scale by inflight or lag" in message(told, "Scaling")
    assert "inflight" not in message(
        status(wanted, Seen(deployment(), kafka=TOPICS, autoscaler=scaler), {}, NOW), "Scaling"
    )


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
        ("Normal", "Recovered"),
        ("Normal", "RolloutComplete"),
        ("Warning", "NotReady"),
        ("Warning", "BrokerUnreachable"),
    ]
    assert told[1][2] == "Deployment digits runs digits:3: pods are ready, clients reach them at Service digits:80"
    assert told[3][2] == "no longer BrokerUnreachable: no broker answers at kafka:9092"
    (told_once,) = [one for one in stories(loading, loading, up, replicas=2) if one[1] == "ModelLoading"]
    assert told_once[0] == "Normal"
    assert "the model in pod digits-a-b has not said that it is ready" in told_once[2]


def test_events_tell_of_faults_that_no_other_condition_tells() -> None:
    told = stories(Seen(faults=[TAKEN]), Seen(deployment(), kafka=TOPICS, paused=True), replicas=2)
    assert ("Warning", "NameConflict", TAKEN.message) in told
    assert ("Normal", "Recovered", f"no longer NameConflict: {TAKEN.message}") in told
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
        ("Created", "created Service digits, Deployment digits"),
        ("Deleted", "deleted Ingress digits"),
        ("Restored", "ConfigMap digits-gateway was deleted: made again"),
        ("Restored", "Service digits was not as the resource says (written by kubectl-edit): put back"),
    ]


def test_every_reason_is_explained() -> None:
    """Programs rely on them, and people look them up in docs/conditions.md."""
    source = ROOT / "operator" / "src" / "podpair" / "operator"
    code = "\n".join(file.read_text() for folder in ("core", "reconciling") for file in (source / folder).glob("*.py"))
    told = set(re.findall(r'_Told\(\s*"(?:True|False|Unknown)",\s*"([A-Z]\w+)"', code))
    told |= set(re.findall(r'Problem\(\s*"([A-Z]\w+)"', code)) | {str(one) for one in Reason}
    # Those that aren't written in one piece.
    told |= {
        "SecretMissing", "ConfigMapMissing", "FailedCreate", "Starting", MODEL_LOADING, "ImagePullBackOff", "InvalidImageName",
        "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
    }  # fmt: skip
    assert {"NameConflict", "ImagePullBackOff", "TopicsReady", "Serving", "PartitionsNotKnown"} <= told
    page = (ROOT / "docs" / "conditions.md").read_text()
    explained = {
        reason
        for row in re.findall(r"^\| (`[A-Z].*?) \|", page[page.index("\n## Ready\n") :], re.MULTILINE)
        for reason in re.findall(r"\w+", row)
    }
    assert told - explained == set()
    assert explained - told == set()


def test_every_reason_of_an_event_is_explained() -> None:
    source = ROOT / "operator" / "src" / "podpair" / "operator"
    code = "\n".join((source / file).read_text() for file in ("reconciling/step.py", "reconciling/finishing.py"))
    told = set(re.findall(r'Event\(\s*"(?:Normal|Warning)",\s*"([A-Z]\w+)"', code))
    told |= {one.reason for one in of_changes([Change(verb, "x") for verb in ("made", "changed", "removed", "remade")])}
    up, none = Seen(deployment(), kafka=TOPICS), Seen(deployment(wanted=0, ready=0), kafka=TOPICS)
    capped = Seen(deployment(), kafka=KafkaSeen(True, Reason.TOPICS_READY, "t", partitions=2))
    rolling, paused = Seen(deployment(updated=1), kafka=TOPICS), Seen(deployment(), kafka=TOPICS, paused=True)
    loading = Seen(deployment(ready=0), pods=[LOADING], kafka=TOPICS)
    faulty = Seen(deployment(), kafka=TOPICS, faults=[TAKEN])
    for scaling in (EXTERNAL, {"min": 2, "max": 2}):
        told |= {
            one[1] for one in stories(loading, up, rolling, up, none, paused, up, faulty, up, capped, scaling=scaling)
        }
    told -= {"NameConflict"}
    page = (ROOT / "docs" / "conditions.md").read_text()
    table = page[page.index("\n## Events\n") : page.index("\n## Where several")]
    explained = {
        reason for row in re.findall(r"^\| (`[A-Z].*?) \|", table, re.MULTILINE) for reason in re.findall(r"\w+", row)
    }
    assert told == explained


SAID_BY_OTHERS = {
    "a connection's port": "dial tcp 10.0.0.7:{}->10.0.0.1:443: i/o timeout",
    "a quota": "pods is forbidden: exceeded quota: q, requested: pods=1, used: pods={0},cpu={0}m, limited: pods=4,cpu=4",
    "the scheduler": "0/{0} nodes are available: {0} Insufficient cpu, {0} node(s) had untolerated taint {{a: b}}."
    " preemption: 0/{0} nodes are available: {0} No preemption victims found for incoming pod.",
    "a clock": "x509: certificate has expired or is not yet valid: current time 2026-11-28T15:22:{}Z is after"
    " 2026-11-01T00:00:00Z",
    "a kubelet": "back-off 5m{}s restarting failed container=inference",
    "how long it took": "etcdserver: request timed out after 3.{}s",
    "librdkafka": "Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after {}ms in state CONNECT)",
}


@pytest.mark.parametrize("said", SAID_BY_OTHERS.values(), ids=SAID_BY_OTHERS.keys())
def test_numbers_that_change_by_themselves_write_no_status_and_no_second_event(said: str) -> None:
    first, second = (Problem("Refused", f"no: {said.format(number)}: mend it") for number in (17, 42))
    before = status(gateway(), Seen(deployment(), kafka=TOPICS, faults=[first]), {}, THEN)
    assert status(gateway(), Seen(deployment(), kafka=TOPICS, faults=[second]), before, NOW) == before
    assert Event("Warning", "Refused", first.message).cut() == Event("Warning", "Refused", second.message).cut()
    assert "17" not in message(before, "Degraded")
    assert message(before, "Degraded").startswith("no: ")
    assert message(before, "Degraded").endswith(": mend it")


@pytest.mark.parametrize(
    "said",
    [
        "pod digits-a: container gateway keeps ending, last with exit code 1: see kubectl logs digits-a -c gateway --previous",
        "it is tried again for 10 minutes; the broker gave no answer in 20 s at kafka:9092, [::1]:9093",
        "topics (partitions): a (16), b (16) at kafka:9092",
        "requested: pods=1, limited: pods=4; drain (30s) must end 35s before terminationGracePeriod",
        "runs digits:3 at Service digits:80, 4 Insufficients",
    ],
)
def test_other_numbers_stay(said: str) -> None:
    assert Event("Normal", "Any", said).cut().message == said


def test_how_many_pods_are_ready_is_told_in_the_status_and_not_in_messages() -> None:
    """Autoscaling would write the same story with other numbers again and again."""
    few, many = (Seen(deployment(ready=count, wanted=count + 1, updated=1), kafka=TOPICS) for count in (2, 7))
    before, after = (status(gateway(), one, {}, NOW) for one in (few, many))
    assert before["conditions"] == after["conditions"]
    assert (before["ready"], after["ready"]) == ("2/3", "7/8")


PHASES = {
    "new": Seen(),
    "loading": Seen(deployment(ready=0, updated=1), pods=[LOADING], kafka=TOPICS),
    "rolling": Seen(deployment(updated=1), kafka=TOPICS),
    "well": Seen(deployment(), kafka=TOPICS),
    "refused": Seen(deployment(), kafka=TOPICS, faults=[TAKEN]),
    "none": Seen(deployment(wanted=0, ready=0), kafka=TOPICS),
    "paused": Seen(deployment(), kafka=TOPICS, paused=True),
}
WAITED_FOR = {
    "condition=Ready": {"rolling", "well", "refused", "paused"},
    "condition=Reconciling=False": {"well", "refused", "none", "paused"},
    "condition=Stalled": {"refused"},
    "condition=Stalled=False": set(PHASES) - {"refused"},
    "condition=KafkaReady": set(PHASES) - {"new"},
    "condition=Degraded=False": set(PHASES) - {"refused"},
    "condition=Paused": {"paused"},
    "jsonpath='{.status.readyReplicas}'=2": {"rolling", "well", "refused", "paused"},
    "jsonpath='{.status.ready}'=2/2": {"rolling", "well", "refused", "paused"},
    "jsonpath='{.status.version}'=3": set(PHASES),
    "jsonpath='{.status.conditions[?(@.type==\"Ready\")].reason}'=ModelLoading": {"loading"},
    "jsonpath='{.status.conditions[?(@.type==\"Ready\")].reason}'=ScaledToZero": {"none"},
}


def is_met(wanted: str, told: dict[str, Any]) -> bool:
    """As kubectl wait sees it."""
    if condition := re.fullmatch(r"condition=(\w+)(?:=(\w+))?", wanted):
        return conditions(told).get(condition[1], ("", ""))[0] == (condition[2] or "True")
    path = re.fullmatch(r"jsonpath='\{\.status\.(\w+)\}'=(.+)", wanted)
    if path is not None:
        return str(told.get(path[1])) == path[2]
    found = re.fullmatch(r"""jsonpath='\{\.status\.conditions\[\?\(@\.type=="(\w+)"\)\]\.reason\}'=(\w+)""", wanted)
    assert found is not None
    return conditions(told)[found[1]][1] == found[2]


@pytest.mark.parametrize("wanted", WAITED_FOR)
def test_what_can_be_waited_for_is_so_in_just_its_phases(wanted: str) -> None:
    versions = [{"version": "3", "weight": 100}]
    scaled = gateway(inference__models=[{"name": "digits", "versions": versions}], replicas=2)
    met = {name for name, seen in PHASES.items() if is_met(wanted, status(scaled, seen, {}, NOW))}
    assert met == WAITED_FOR[wanted]


def test_the_page_names_all_that_can_be_waited_for() -> None:
    page = (ROOT / "docs" / "conditions.md").read_text()
    table = page[page.index("\n## Waiting for it\n") : page.index("\n## Events\n")]
    named = set(re.findall(r"\| `(.*)` \|$", table, re.MULTILINE)) - {"--for=", "delete"}
    assert named == set(WAITED_FOR)
