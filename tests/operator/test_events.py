"""Events: what happened to a resource, each once."""

import re

import pytest

from harness.observations import (
    AWAY,
    EXTERNAL,
    LOADING,
    NOW,
    TAKEN,
    THEN,
    TOPICS,
    deployment,
    gateway,
    message,
    stories,
)
from harness.processes import ROOT
from podpair.operator.core.conditions import Observed, status
from podpair.operator.core.events import Change, Event, change_events
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.pod_diagnosis import Problem


def test_events_tell_the_story_once() -> None:
    starting, up = Observed(deployment(ready=0), kafka=AWAY), Observed(deployment(), kafka=TOPICS)
    loading, rolling = (
        Observed(deployment(ready=0), pods=[LOADING], kafka=TOPICS),
        Observed(deployment(updated=1), kafka=TOPICS),
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
    assert "the model in pod digits-a-b has not reported ready" in told_once[2]


def test_events_tell_of_faults_that_no_other_condition_tells() -> None:
    told = stories(Observed(faults=[TAKEN]), Observed(deployment(), kafka=TOPICS, paused=True), replicas=2)
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
    assert [(one.reason, one.message) for one in change_events(changes)] == [
        ("Created", "created Service digits, Deployment digits"),
        ("Deleted", "deleted Ingress digits"),
        ("Restored", "ConfigMap digits-gateway was deleted: made again"),
        ("Restored", "Service digits was not as the resource says (written by kubectl-edit): put back"),
    ]


def test_every_reason_of_an_event_is_explained() -> None:
    source = ROOT / "operator" / "src" / "podpair" / "operator"
    code = "\n".join((source / file).read_text() for file in ("controller/reconciler.py", "controller/finalizer.py"))
    told = set(re.findall(r'Event\(\s*"(?:Normal|Warning)",\s*"([A-Z]\w+)"', code))
    told |= {
        one.reason for one in change_events([Change(verb, "x") for verb in ("made", "changed", "removed", "remade")])
    }
    up, none = Observed(deployment(), kafka=TOPICS), Observed(deployment(wanted=0, ready=0), kafka=TOPICS)
    capped = Observed(deployment(), kafka=KafkaState(True, Reason.TOPICS_READY, "t", partitions=2))
    rolling, paused = Observed(deployment(updated=1), kafka=TOPICS), Observed(deployment(), kafka=TOPICS, paused=True)
    loading = Observed(deployment(ready=0), pods=[LOADING], kafka=TOPICS)
    faulty = Observed(deployment(), kafka=TOPICS, faults=[TAKEN])
    for scaling in (EXTERNAL, {"min": 2, "max": 2}):
        told |= {
            one[1] for one in stories(loading, up, rolling, up, none, paused, up, faulty, up, capped, scaling=scaling)
        }
    told -= {"NameConflict"}
    page = (ROOT / "docs" / "conditions.md").read_text()
    table = page[page.index("\n## Events\n") : page.index("\n## Several faults")]
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
    before = status(gateway(), Observed(deployment(), kafka=TOPICS, faults=[first]), {}, THEN)
    assert status(gateway(), Observed(deployment(), kafka=TOPICS, faults=[second]), before, NOW) == before
    assert (
        Event("Warning", "Refused", first.message).truncated()
        == Event("Warning", "Refused", second.message).truncated()
    )
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
    assert Event("Normal", "Any", said).truncated().message == said
