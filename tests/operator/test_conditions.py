"""What the operator says of what it sees: conditions with reasons that programs rely on, and the events between two of them."""

import re
from typing import Any

import pytest

from harness.observations import (
    AWAY,
    EXTERNAL,
    LOADING,
    MISSING,
    NOW,
    TAKEN,
    THEN,
    TOPICS,
    conditions,
    deployment,
    gateway,
    message,
    pod,
    waiting,
)
from harness.processes import ROOT
from podpair.operator.core.conditions import MODEL_LOADING, Observed, invalid_spec, status
from podpair.operator.core.external_api_state import ExternalApiState
from podpair.operator.core.external_api_state import Reason as Api
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.load import LoadState


def test_of_several_faults_the_one_nearest_to_the_cause_gives_the_reason_and_all_are_told() -> None:
    """What the operator lacks, then what it couldn't write, then the pods, then the broker, then the autoscaler."""
    pods = [pod(gateway=waiting("CreateContainerConfigError"))]
    cause = ["SecretMissing", "NameConflict", "CreateContainerConfigError", "BrokerUnreachable", "FailedGetScale"]
    scale = {"status": {"conditions": [{"type": "AbleToScale", "status": "False", "reason": "FailedGetScale"}]}}
    seen = [
        Observed(deployment(ready=0), pods=pods, faults=[MISSING, TAKEN], kafka=AWAY, autoscaler=scale),
        Observed(deployment(ready=0), pods=pods, faults=[TAKEN], kafka=AWAY, autoscaler=scale),
        Observed(deployment(ready=0), pods=pods, kafka=AWAY, autoscaler=scale),
        Observed(deployment(ready=0), kafka=AWAY, autoscaler=scale),
        Observed(deployment(ready=0), kafka=TOPICS, autoscaler=scale),
    ]
    told = [status(gateway(), one, {}, NOW) for one in seen]
    assert [conditions(one)["Degraded"] for one in told] == [("True", reason) for reason in cause]
    for words in (MISSING.message, TAKEN.message, "can't be started", AWAY.message, "can't scale"):
        assert words in message(told[0], "Degraded")


def test_all_is_well() -> None:
    scale = {"status": {"conditions": [{"type": kind, "status": "True"} for kind in ("AbleToScale", "ScalingActive")]}}
    told = status(
        gateway(), Observed(deployment(), kafka=TOPICS, autoscaler=scale, load=LoadState(sessions=118)), {}, NOW
    )
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
        (Observed(), ("False", "DeploymentNotCreated")),
        (Observed(deployment(wanted=0, ready=0)), ("False", "ScaledToZero")),
        (Observed(deployment(ready=0)), ("False", "Starting")),
        (Observed(deployment(ready=0), pods=[LOADING]), ("False", "ModelLoading")),
        (Observed(deployment(ready=0), kafka=AWAY), ("False", "KafkaNotReady")),
        (Observed(deployment(ready=1)), ("True", "Serving")),
        (Observed(deployment(updated=1)), ("True", "RollingOut")),
        (Observed(deployment(), kafka=AWAY, faults=[MISSING]), ("True", "Serving")),
    ],
)
def test_ready_says_whether_clients_are_served(seen: Observed, ready: tuple[str, str]) -> None:
    assert conditions(status(gateway(), seen, {}, NOW))["Ready"] == ready


def test_an_operator_that_starts_lets_what_the_last_one_saw_stand() -> None:
    before = status(gateway(), Observed(deployment(), kafka=AWAY), {}, THEN)
    after = status(gateway(), Observed(deployment()), before, NOW)
    assert conditions(after)["KafkaReady"] == ("False", "BrokerUnreachable")
    assert after == before
    assert conditions(status(gateway(), Observed(), {}, NOW))["KafkaReady"] == ("Unknown", "NotProbed")
    assert "lag" not in after  # what isn't known is left out

    before = status(gateway(), Observed(deployment(), kafka=TOPICS), {}, THEN)
    assert before["lag"] == 7
    assert status(gateway(), Observed(deployment()), before, NOW) == before
    # Nobody asks the broker of a paused resource: its lag is not known.
    assert "lag" not in status(gateway(), Observed(deployment(), paused=True), before, NOW)


def test_an_unchanged_resource_has_an_unchanged_status_and_times_move_with_statuses_only() -> None:
    seen = Observed(deployment(), kafka=TOPICS)
    before = status(gateway(), seen, {}, THEN)
    assert status(gateway(), seen, before, NOW) == before
    after = status(gateway(), Observed(deployment(ready=0), kafka=TOPICS), before, NOW)
    times = {one["type"]: one["lastTransitionTime"] for one in after["conditions"]}
    assert (times["Ready"], times["KafkaReady"]) == (NOW, THEN)


def test_pods_beyond_the_partitions_that_the_topic_really_has_are_told() -> None:
    narrow = KafkaState(False, Reason.REPARTITION_REFUSED, "…", partitions=3)
    told = status(gateway(scaling={"min": 1, "max": 4}), Observed(kafka=narrow), {}, NOW)
    assert conditions(told)["ReplicasCappedByPartitions"] == ("True", "TooFewPartitions")
    assert "the requests topic has 3 partitions and scaling.max is 4" in message(told, "ReplicasCappedByPartitions")
    fixed = status(gateway(replicas=5), Observed(kafka=narrow), {}, NOW)
    assert "the number of pods is 5" in message(fixed, "ReplicasCappedByPartitions")
    unknown = conditions(status(gateway(), Observed(kafka=AWAY), {}, NOW))
    assert unknown["ReplicasCappedByPartitions"] == ("Unknown", "PartitionsNotKnown")


def test_an_autoscaler_that_reads_nothing_is_told_with_who_owns_the_metrics() -> None:
    other = ExternalApiState(False, Api.OWNED_BY_OTHER, "external.metrics.k8s.io is keda's")
    off = {"type": "ScalingActive", "status": "False", "reason": "FailedGetExternalMetric", "message": "no metrics"}
    seen = Observed(deployment(), autoscaler={"status": {"conditions": [off]}}, external=other, kafka=TOPICS)
    told = status(gateway(scaling=EXTERNAL), seen, {}, NOW)
    assert conditions(told)["Scaling"] == ("False", "FailedGetExternalMetric")
    assert message(told, "Scaling").endswith("no metrics; external.metrics.k8s.io is keda's")
    by_cpu = status(gateway(scaling={"max": 4, "metrics": [{"cpu": 50}]}), seen, {}, NOW)
    assert "keda" not in message(by_cpu, "Scaling")


def test_without_pods_keda_knows_nothing_of_what_prometheus_has_and_that_is_no_fault() -> None:
    failing = {"type": "Ready", "status": "False", "reason": "TriggerError", "message": "not working correctly"}
    keda = {"max": 4, "provider": "keda", "metrics": [{"lag": 5}, {"sessions": 9}], "prometheusUrl": "http://one"}

    def told(wanted: int, least: int, reason: str = "TriggerError", **scaling: Any) -> dict[str, Any]:
        scaler = {"status": {"conditions": [failing | {"reason": reason}]}}
        seen = Observed(deployment(wanted=wanted, ready=wanted), autoscaler=scaler, kafka=TOPICS)
        return status(gateway(scaling=keda | {"min": least} | scaling), seen, {}, NOW)

    none = told(0, 0)
    assert conditions(none)["Scaling"] == ("True", "Autoscaled")
    assert message(none, "Scaling") == "0 to 4 pods by lag, sessions; none now"
    assert conditions(none)["Ready"] == ("False", "ScaledToZero")
    assert "requests that wait in Kafka bring them back" in message(none, "Ready")
    assert (conditions(none)["Degraded"][0], conditions(none)["Stalled"][0]) == ("False", "False")
    # Of lag alone it means that KEDA can't ask the broker, and then no pod ever comes back.
    by_lag = told(0, 0, metrics=[{"lag": 5}])
    for other in (told(1, 0), told(0, 1), told(0, 0, "ErrorScalingTarget"), by_lag):
        assert conditions(other)["Scaling"][0] == "False"


def test_what_can_t_be_read_changes_nothing_else() -> None:
    before = status(gateway(), Observed(deployment(), kafka=TOPICS), {}, THEN)
    told = invalid_spec("spec.new: unknown", 4, before, NOW)
    assert conditions(told)["Ready"] == ("False", "InvalidSpec")
    assert conditions(told)["KafkaReady"] == ("True", "TopicsReady")
    assert (told["ready"], told["lag"]) == ("2/2", 7)


OTHER_SERVER = LoadState(without_latency=True)


def test_weights_that_another_s_server_does_not_keep_are_told() -> None:
    """An image's name doesn't tell what is in it: what its pods tell of themselves does."""
    weighted = gateway(replicas=2)
    told = status(weighted, Observed(deployment(), kafka=TOPICS, load=OTHER_SERVER), {}, NOW)
    assert conditions(told)["Degraded"] == conditions(told)["Stalled"] == ("True", "WeightsNotKept")
    assert conditions(told)["Ready"] == ("True", "Serving")  # clients are served none the less
    assert "the weights of digits (models[].versions) have no effect" in message(told, "Degraded")


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({}, LoadState(sessions=3)),
        ({"inference__models": [{"name": "digits"}]}, OTHER_SERVER),
        ({"inference__protocol": "grpc"}, OTHER_SERVER),  # over which nobody tells any
    ],
)
def test_nothing_is_told_where_weights_are_kept_or_not_wanted(changed: dict[str, Any], seen: LoadState) -> None:
    told = status(gateway(replicas=2, **changed), Observed(deployment(), kafka=TOPICS, load=seen), {}, NOW)
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
    told = status(wanted, Observed(deployment(), kafka=TOPICS, autoscaler=scaler, load=OTHER_SERVER), {}, NOW)
    assert conditions(told)["Scaling"] == ("False", "FailedGetExternalMetric")
    assert "scale by inflight or lag" in message(told, "Scaling")
    assert "inflight" not in message(
        status(wanted, Observed(deployment(), kafka=TOPICS, autoscaler=scaler), {}, NOW), "Scaling"
    )


def test_every_reason_is_explained() -> None:
    """Programs rely on them, and people look them up in docs/conditions.md."""
    source = ROOT / "operator" / "src" / "podpair" / "operator"
    code = "\n".join(file.read_text() for folder in ("core", "controller") for file in (source / folder).glob("*.py"))
    told = set(re.findall(r'_State\(\s*"(?:True|False|Unknown)",\s*"([A-Z]\w+)"', code))
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


def test_how_many_pods_are_ready_is_told_in_the_status_and_not_in_messages() -> None:
    """Autoscaling would write the same story with other numbers again and again."""
    few, many = (Observed(deployment(ready=count, wanted=count + 1, updated=1), kafka=TOPICS) for count in (2, 7))
    before, after = (status(gateway(), one, {}, NOW) for one in (few, many))
    assert before["conditions"] == after["conditions"]
    assert (before["ready"], after["ready"]) == ("2/3", "7/8")
