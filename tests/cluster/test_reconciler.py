"""The operator at a real API server: what a resource says comes about, and stays so. One operator keeps all namespaces."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import INGRESS, OBJECTS, apply, becomes, condition, there
from harness.resources import resource
from harness.waiting import until
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.references import references_of


@pytest.fixture(scope="module")
def operator(cluster: ApiServer) -> Iterator[Operator]:
    running = Operator(cluster, "")
    # It first sees to what other tests have left in the cluster.
    busy = ("workqueue_depth", "controller_runtime_active_workers")
    until(lambda: sum(running.metric(name) for name in busy) == 0, timeout=120)
    yield running
    running.stop()


def test_every_object_is_made_and_whatever_is_deleted_or_edited_comes_back(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    apply(cluster, namespace, network=INGRESS)
    for kind, name in OBJECTS:
        until(lambda kind=kind, name=name: there(cluster, namespace, kind, name), f"{kind} {name}")
    key = cluster.read("secret", "digits-resume", "-n", namespace)["data"]["resume-key"]
    assert len(base64.b64decode(key)) >= 32

    for kind, name in OBJECTS:
        uid = cluster.read(kind, name, "-n", namespace)["metadata"]["uid"]
        cluster.kubectl("delete", kind, name, "-n", namespace, "--wait=false")
        until(
            lambda kind=kind, name=name, uid=uid: (
                there(cluster, namespace, kind, name)
                and cluster.read(kind, name, "-n", namespace)["metadata"]["uid"] != uid
            ),
            f"{kind} {name} is made again",
        )
    # The key that clients resume by is the one that it was.
    assert cluster.read("secret", "digits-resume", "-n", namespace)["data"]["resume-key"] == key


def test_labels_and_annotations_reach_the_objects_and_go_again_without_a_rollout(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    def metadata(kind: str) -> dict[str, Any]:
        found: dict[str, Any] = cluster.read(kind, "digits", "-n", namespace)["metadata"]
        return found

    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "deployment", "digits"))
    template = cluster.read("deployment", "digits", "-n", namespace)["spec"]["template"]
    cluster.kubectl("label", "igw", "digits", "team=ml", "argocd.argoproj.io/instance=app", "-n", namespace)
    cluster.kubectl("annotate", "igw", "digits", "example.com/contact=me", "-n", namespace)
    for kind in ("deployment", "service", "networkpolicy"):
        until(lambda kind=kind: metadata(kind)["labels"].get("team") == "ml", f"{kind} has the label")
        until(lambda kind=kind: "example.com/contact" in metadata(kind)["annotations"], f"{kind} has the annotation")
        assert "argocd.argoproj.io/instance" not in metadata(kind)["labels"]
    cluster.kubectl("label", "igw", "digits", "team-", "-n", namespace)
    for kind in ("deployment", "service", "networkpolicy"):
        until(lambda kind=kind: "team" not in metadata(kind)["labels"], f"{kind} has lost the label")
    # Its generation tells nothing: the API server counts annotations of a Deployment in.
    assert cluster.read("deployment", "digits", "-n", namespace)["spec"]["template"] == template


def test_the_operators_port_is_open_to_its_own_namespace_and_to_whom_the_resource_names(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    def peers() -> list[dict[str, Any]]:
        public, operations = cluster.read("networkpolicy", "digits", "-n", namespace)["spec"]["ingress"]
        assert (public["ports"][0]["port"], operations["ports"][0]["port"]) == (8080, 8083)
        found: list[dict[str, Any]] = operations["from"]
        return found

    own = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}  # where it says it runs
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "networkpolicy", "digits"))
    assert peers() == [own, prometheus]
    agent = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    apply(cluster, namespace, network={"networkPolicy": {"operationsFrom": [agent]}})
    until(lambda: peers() == [own, agent])
    apply(cluster, namespace, network={"networkPolicy": {"operationsFrom": []}})
    until(lambda: peers() == [own])


def test_the_strategy_of_rollouts_changes_without_one(cluster: ApiServer, namespace: str, operator: Operator) -> None:
    def spec() -> dict[str, Any]:
        found: dict[str, Any] = cluster.read("deployment", "digits", "-n", namespace)["spec"]
        return found

    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "deployment", "digits"))
    first = spec()
    by_default = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}
    assert (first["strategy"], first["progressDeadlineSeconds"]) == (by_default, 600)
    apply(cluster, namespace, rollout={"strategy": "recreate", "progressDeadline": "1m30s"})
    until(lambda: spec()["strategy"] == {"type": "Recreate"}, spec)
    assert spec()["progressDeadlineSeconds"] == 90
    in_place = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}}
    apply(cluster, namespace, rollout={"maxSurge": 0, "maxUnavailable": "50%"})
    until(lambda: spec()["strategy"] == in_place, spec)
    cluster.kubectl(
        "patch", "deployment", "digits", "-n", namespace, "--type=merge", "-p",
        json.dumps({"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 2}}}}),
    )  # fmt: skip
    until(lambda: spec()["strategy"] == in_place, spec)
    apply(cluster, namespace)
    until(lambda: spec()["strategy"] == by_default, spec)
    assert spec()["template"] == first["template"]


EDITS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("serviceaccount", "digits"): ("automountServiceAccountToken", {"automountServiceAccountToken": True}),
    ("secret", "digits-resume"): ("data.resume-key", {"data": {"resume-key": "c2hvcnQ="}}),
    ("configmap", "digits-models"): ("data.weights\\.yaml", {"data": {"weights.yaml": "digits: {}"}}),
    ("configmap", "digits-gateway"): ("data.gateway\\.yaml", {"data": {"gateway.yaml": "http: {}"}}),
    ("service", "digits"): ("spec.ports", {"spec": {"ports": [{"port": 81, "targetPort": 9}]}}),
    ("networkpolicy", "digits"): ("spec.ingress", {"spec": {"ingress": []}}),
    ("deployment", "digits"): ("spec.progressDeadlineSeconds", {"spec": {"progressDeadlineSeconds": 9}}),
    ("poddisruptionbudget", "digits"): ("spec.maxUnavailable", {"spec": {"maxUnavailable": 3}}),
    ("horizontalpodautoscaler", "digits"): ("spec.maxReplicas", {"spec": {"maxReplicas": 99}}),
    ("ingress", "digits"): ("spec.rules", {"spec": {"rules": [{"host": "else.example"}]}}),
}


def test_whatever_is_edited_by_hand_is_put_back_and_said_so(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    apply(cluster, namespace, network=INGRESS)
    until(lambda: there(cluster, namespace, "ingress", "digits"))

    def read(kind: str, name: str, path: str) -> str:
        return cluster.kubectl("get", kind, name, "-n", namespace, "-o", f"jsonpath={{.{path}}}")

    assert EDITS.keys() == set(OBJECTS)
    for (kind, name), (path, edit) in EDITS.items():
        before = read(kind, name, path)
        cluster.kubectl("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps(edit))
        until(
            lambda kind=kind, name=name, path=path, before=before: read(kind, name, path) == before,
            lambda kind=kind, name=name, path=path, before=before: (kind, name, before, read(kind, name, path)),
        )
    label = ("label", "service", "digits", "-n", namespace, "podpair.dev/gateway-", "app.kubernetes.io/managed-by=me")
    cluster.kubectl(*label, "--overwrite")
    until(lambda: "podpair.dev/gateway" in read("service", "digits", "metadata.labels"))
    said = "Deployment digits was not as the resource says (written by kubectl-patch): put back"
    # An event is written a while after what it tells of.
    until(lambda: said in cluster.kubectl("describe", "igw", "digits", "-n", namespace))


def test_what_others_add_is_theirs(cluster: ApiServer, namespace: str, operator: Operator) -> None:
    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "deployment", "digits"))
    cluster.kubectl("rollout", "restart", "deployment", "digits", "-n", namespace)
    cluster.kubectl("annotate", "service", "digits", "-n", namespace, "someone.example/note=theirs")
    apply(cluster, namespace, gateway__logLevel="debug")

    def rolled() -> bool:
        config = cluster.read("configmap", "digits-gateway", "-n", namespace)["data"]["gateway.yaml"]
        return "level: debug" in config

    until(rolled)
    template = cluster.read("deployment", "digits", "-n", namespace)["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]
    assert "someone.example/note" in cluster.read("service", "digits", "-n", namespace)["metadata"]["annotations"]


def test_the_number_of_pods_stays_when_an_autoscaler_takes_over_and_is_not_written_from_then_on(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    def replicas() -> int:
        return int(cluster.read("deployment", "digits", "-n", namespace)["spec"]["replicas"])

    apply(cluster, namespace, replicas=7)
    until(lambda: there(cluster, namespace, "deployment", "digits") and replicas() == 7)
    cluster.kubectl("patch", "igw", "digits", "-n", namespace, "--type=json",
                    "-p", '[{"op": "remove", "path": "/spec/replicas"}]')  # fmt: skip
    until(lambda: there(cluster, namespace, "horizontalpodautoscaler", "digits"))
    assert replicas() == 7

    # As the autoscaler's controller does, through the scale subresource.
    cluster.kubectl("scale", "deployment", "digits", "-n", namespace, "--replicas=4")
    apply(cluster, namespace, gateway__drain="20s")
    deployment = ("deployment", "digits", "-n", namespace)
    until(lambda: cluster.read(*deployment)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 55)
    assert replicas() == 4

    cluster.kubectl("scale", "igw", "digits", "-n", namespace, "--replicas=3")
    until(lambda: replicas() == 3)
    until(lambda: not there(cluster, namespace, "horizontalpodautoscaler", "digits"))


def test_objects_that_are_wanted_no_longer_go_and_those_of_others_stay(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    apply(cluster, namespace, network=INGRESS)
    until(lambda: there(cluster, namespace, "ingress", "digits"))
    mine = cluster.read("ingress", "digits", "-n", namespace)
    other = {
        "apiVersion": mine["apiVersion"],
        "kind": mine["kind"],
        "metadata": {"name": "mine", "namespace": namespace, "labels": mine["metadata"]["labels"]},
        "spec": mine["spec"],
    }
    cluster.apply(other)
    apply(cluster, namespace, network={"networkPolicy": {"enabled": False}}, disruptionBudget={"enabled": False})
    for kind in ("ingress", "networkpolicy", "poddisruptionbudget"):
        until(lambda kind=kind: not there(cluster, namespace, kind, "digits"), kind)
    assert there(cluster, namespace, "ingress", "mine")


def test_a_name_that_is_taken_is_told_and_left_alone_until_it_is_free(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    taken = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "digits-gateway", "namespace": namespace}}
    cluster.apply({**taken, "data": {"mine": "yes"}})
    apply(cluster, namespace)
    told = becomes(cluster, namespace, "Degraded", "True", "NameConflict")
    assert "there is a ConfigMap digits-gateway that is not this resource's" in told["message"]
    assert cluster.read("configmap", "digits-gateway", "-n", namespace)["data"] == {"mine": "yes"}
    cluster.kubectl("delete", "configmap", "digits-gateway", "-n", namespace)
    until(lambda: condition(cluster, namespace, "Degraded")["reason"] == "BrokerUnreachable")
    assert "gateway.yaml" in cluster.read("configmap", "digits-gateway", "-n", namespace)["data"]


SECRETS = {
    "gateway__auth": {"secretRef": {"name": "jwt", "key": "secret"}},
    "inference__env": [{"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "modes", "key": "mode"}}}],
}


def test_a_change_in_a_secret_or_config_map_that_it_names_rolls_the_pods(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    def put(kind: str, name: str, **data: str) -> None:
        made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
        cluster.apply({**made, ("stringData" if kind == "Secret" else "data"): data})

    def generation() -> int:
        return int(cluster.read("deployment", "digits", "-n", namespace)["metadata"]["generation"])

    wanted = references_of(InferenceGateway.model_validate(resource(**SECRETS)))
    assert {(one.kind, one.name) for one in wanted} == {("Secret", "jwt"), ("ConfigMap", "modes")}
    apply(cluster, namespace, **SECRETS)
    told = becomes(cluster, namespace, "Degraded", "True", "SecretMissing")
    assert (
        f"Secret {namespace}/jwt not found (spec.gateway.auth names it): create it with key secret" in told["message"]
    )
    put("Secret", "jwt", other="x")
    until(lambda: "has no secret" in condition(cluster, namespace, "Degraded")["message"])
    put("Secret", "jwt", secret="s" * 32)
    put("ConfigMap", "modes", mode="fast")
    until(lambda: condition(cluster, namespace, "Degraded")["reason"] == "BrokerUnreachable")

    for kind, name, change in (
        ("Secret", "jwt", {"secret": "t" * 32}),
        ("ConfigMap", "modes", {"mode": "slow"}),
    ):
        before = generation()
        put(kind, name, **change)
        until(lambda before=before: generation() > before, f"{kind} {name} rolls the pods")


def test_paused_nothing_is_written_but_what_is_seen(cluster: ApiServer, namespace: str, operator: Operator) -> None:
    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "service", "digits"))
    cluster.kubectl("annotate", "igw", "digits", "-n", namespace, "podpair.dev/paused=true")
    becomes(cluster, namespace, "Paused", "True", "Paused")
    cluster.kubectl("delete", "service", "digits", "-n", namespace)
    apply(cluster, namespace, network=INGRESS)
    generation = cluster.read("igw", "digits", "-n", namespace)["metadata"]["generation"]
    until(lambda: cluster.read("igw", "digits", "-n", namespace)["status"]["observedGeneration"] == generation)
    assert not there(cluster, namespace, "service", "digits")
    assert not there(cluster, namespace, "ingress", "digits")
    cluster.kubectl("annotate", "igw", "digits", "-n", namespace, "podpair.dev/paused-")
    until(lambda: there(cluster, namespace, "service", "digits") and there(cluster, namespace, "ingress", "digits"))
    becomes(cluster, namespace, "Paused", "False")
