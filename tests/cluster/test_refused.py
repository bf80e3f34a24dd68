"""What the API server refuses stands in the status in its own words, whatever the HTTP status it says so with."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness.kubernetes import ApiServer, Refused
from harness.operator import Operator
from harness.reconciled import apply, becomes, condition, there
from harness.waiting import until


@pytest.fixture(scope="module")
def operator(cluster: ApiServer) -> Iterator[Operator]:
    running = Operator(cluster, "")
    yield running
    running.stop()


def gateway(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "gateway", **fields}]}}


# Each passes the CRD, which does not know pods, and is refused by server-side apply with 500 and no reason, or with 422.
SLIPS: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt field": ({"spec": {"nodeSelectr": {"a": "b"}}}, "nodeSelectr"),
    "a number as a label": ({"metadata": {"labels": {"tier": 1}}}, "tier"),
    "two volumes at one place": (
        gateway(volumeMounts=[{"name": "podpair-tmp", "mountPath": "/a"}, {"name": "podpair-config", "mountPath": "/a"}]),
        "/a",
    ),
    "a variable from nowhere": (gateway(env=[{"name": "A", "valueFrom": {"secretRef": {"name": "x"}}}]), "secretRef"),
    "two variables of one name": (gateway(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), '"A"'),
    "text for a list": ({"spec": {"tolerations": "all"}}, "tolerations"),
    "a container without an image": ({"spec": {"containers": [{"name": "inference"}]}}, "image"),
    "a volume that there is not": (gateway(volumeMounts=[{"name": "none", "mountPath": "/x"}]), "none"),
    "a quantity that is none": (gateway(resources={"limits": {"memory": "1Gb"}}), "1Gb"),
}  # fmt: skip


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_in_the_overlay_is_told_and_gone_when_it_is_mended(
    cluster: ApiServer, namespace: str, operator: Operator, name: str
) -> None:
    template, word = SLIPS[name]
    apply(cluster, namespace, inference__podTemplate=template)
    told = becomes(cluster, namespace, "Degraded", "True", "Refused")["message"]
    assert "Deployment digits" in told
    assert word in told
    assert "spec.inference.podTemplate." in told  # where it is in the resource
    assert condition(cluster, namespace, "Ready")["status"] == "False"
    assert told in cluster.kubectl("describe", "igw", "digits", "-n", namespace)
    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "deployment", "digits"))
    until(lambda: condition(cluster, namespace, "Degraded")["reason"] != "Refused")


def test_nothing_is_written_while_nothing_changes(cluster: ApiServer, namespace: str, operator: Operator) -> None:
    """Neither by what is refused and tried again, nor by a broker that stays away."""
    apply(cluster, namespace, inference__podTemplate=SLIPS["a misspelt field"][0])
    becomes(cluster, namespace, "Degraded", "True", "Refused")
    becomes(cluster, namespace, "KafkaReady", "False")
    version = cluster.read("igw", "digits", "-n", namespace)["metadata"]["resourceVersion"]
    looked = operator.metric("controller_runtime_reconcile_total")
    until(lambda: operator.metric("controller_runtime_reconcile_total") >= looked + 2, timeout=60)
    assert cluster.read("igw", "digits", "-n", namespace)["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize("resource", ["deployments", "secrets", "services"])
def test_a_webhook_that_is_away_is_named(cluster: ApiServer, namespace: str, operator: Operator, resource: str) -> None:
    groups = {"deployments": "apps", "secrets": "", "services": ""}
    hook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": f"{namespace}-away"},
        "webhooks": [
            {
                "name": "away.example.com",
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": [
                    {
                        "apiGroups": [groups[resource]],
                        "apiVersions": ["*"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": [resource],
                    }
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }
    cluster.apply(hook)
    try:
        apply(cluster, namespace)
        told = becomes(cluster, namespace, "Degraded", "True", "WebhookFailed")["message"]
        assert "away.example.com" in told
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", f"{namespace}-away")
    until(lambda: there(cluster, namespace, "deployment", "digits"), timeout=60)
    becomes(cluster, namespace, "Degraded", "True", "BrokerUnreachable")  # all else is well


def test_who_refuses_is_not_taken_for_a_lack_of_permission(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    """An admission policy says 422 or 403, as the API server does for what is not granted."""
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": f"{namespace}-policy"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["deployments"],
                    }
                ]
            },
            "validations": [{"expression": "false", "message": "not on Saturdays", "reason": "Forbidden"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": f"{namespace}-policy"},
        "spec": {
            "policyName": f"{namespace}-policy",
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
        },
    }
    cluster.apply(policy)
    cluster.apply(binding)
    until(lambda: refused(cluster, namespace))  # a policy is in force some time after it is there
    try:
        apply(cluster, namespace)
        told = becomes(cluster, namespace, "Degraded", "True", "Refused")["message"]
        assert "not on Saturdays" in told
        assert "grant it" not in told
    finally:
        cluster.kubectl("delete", "validatingadmissionpolicybinding", f"{namespace}-policy")
        cluster.kubectl("delete", "validatingadmissionpolicy", f"{namespace}-policy")


def refused(cluster: ApiServer, namespace: str) -> bool:
    """Whether a Deployment that could be made isn't."""
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    probe = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod},
    }
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(probe))
    except Refused:
        return True
    return False
