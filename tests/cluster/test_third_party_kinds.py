"""Kinds whose CRDs are somebody else's: Prometheus Operator's, KEDA's, the Gateway API's. They may come, and go, at any time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.kubernetes import ApiServer
from harness.operator import Operator
from harness.reconciled import apply, becomes, condition, there
from harness.waiting import until

KINDS = {
    "podmonitors": ("monitoring.coreos.com", "v1", "PodMonitor"),
    "prometheusrules": ("monitoring.coreos.com", "v1", "PrometheusRule"),
    "scaledobjects": ("keda.sh", "v1alpha1", "ScaledObject"),
    "triggerauthentications": ("keda.sh", "v1alpha1", "TriggerAuthentication"),
    "httproutes": ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
}


def crd(plural: str) -> dict[str, Any]:
    """As much of the CRD as the API server needs to serve the kind, with the subresources of the real one."""
    group, version, kind = KINDS[plural]
    metadata: dict[str, Any] = {"name": f"{plural}.{group}"}
    if group.endswith("k8s.io"):
        metadata["annotations"] = {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2538"
        }
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    spec = {
        "group": group,
        "names": names,
        "scope": "Namespaced",
        "versions": [served | {"subresources": {"status": {}}}],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


@contextmanager
def known(cluster: ApiServer, *plurals: str) -> Iterator[None]:
    """The cluster knows these kinds for as long as the context lasts."""
    made = [crd(plural) for plural in plurals]
    cluster.apply(*made)
    try:
        for one in made:
            cluster.await_kind(one["metadata"]["name"])
        yield
    finally:
        for one in made:
            cluster.kubectl("delete", "crd", one["metadata"]["name"])


@pytest.fixture
def operator(cluster: ApiServer, namespace: str) -> Iterator[Operator]:
    running = Operator(cluster, namespace)
    yield running
    running.stop()


def test_a_pod_monitor_is_made_once_its_kind_is_known_and_nobody_misses_it_before(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    apply(cluster, namespace, monitoring={"interval": "15s", "labels": {"release": "prometheus"}})
    told = becomes(cluster, namespace, "Degraded", "True", "BrokerUnreachable")
    assert "PodMonitor" not in told["message"]
    with known(cluster, "podmonitors"):
        until(lambda: there(cluster, namespace, "podmonitor", "digits"), timeout=60)
        made = cluster.read("podmonitor", "digits", "-n", namespace)
        (endpoint,) = made["spec"]["podMetricsEndpoints"]
        assert (endpoint["port"], endpoint["interval"]) == ("operations", "15s")
        assert made["metadata"]["labels"]["release"] == "prometheus"
        apply(cluster, namespace, monitoring={"podMonitor": False})
        until(lambda: not there(cluster, namespace, "podmonitor", "digits"))


def test_a_prometheus_rule_comes_and_goes_with_its_kind_and_with_what_is_wanted(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    slo = {"availability": 99.5}
    apply(cluster, namespace, monitoring={"labels": {"release": "prometheus"}, "slo": slo, "dashboard": True})
    until(lambda: there(cluster, namespace, "configmap", "digits-dashboard"), timeout=60)
    with known(cluster, "podmonitors"):  # of the same group: one kind may be there without the other
        until(lambda: there(cluster, namespace, "podmonitor", "digits"), timeout=60)
        assert becomes(cluster, namespace, "Degraded", "True", "BrokerUnreachable")
        with known(cluster, "prometheusrules"):
            until(lambda: there(cluster, namespace, "prometheusrule", "digits"), timeout=60)
            made = cluster.read("prometheusrule", "digits", "-n", namespace)
            assert made["metadata"]["labels"]["release"] == "prometheus"
            alerts = [rule["alert"] for group in made["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
            assert "PodpairErrorBudgetBurn" in alerts
            apply(cluster, namespace, monitoring={"alerts": False})
            until(lambda: not there(cluster, namespace, "prometheusrule", "digits"))
            until(lambda: not there(cluster, namespace, "configmap", "digits-dashboard"))


def test_keda_is_missed_by_name_and_scales_once_it_is_there(
    cluster: ApiServer, namespace: str, operator: Operator
) -> None:
    apply(cluster, namespace)
    until(lambda: there(cluster, namespace, "horizontalpodautoscaler", "digits"))
    keda = {"min": 1, "max": 8, "provider": "keda", "metrics": [{"lag": 50}]}
    apply(cluster, namespace, scaling=keda)
    told = becomes(cluster, namespace, "Degraded", "True", "CRDNotInstalled")
    assert "the cluster does not know ScaledObject: install KEDA, or set scaling.provider: hpa" in told["message"]
    # Two autoscalers would fight over the number of pods.
    until(lambda: not there(cluster, namespace, "horizontalpodautoscaler", "digits"))
    with known(cluster, "scaledobjects", "triggerauthentications"):
        until(lambda: there(cluster, namespace, "scaledobject", "digits"), timeout=60)
        spec = cluster.read("scaledobject", "digits", "-n", namespace)["spec"]
        assert (spec["scaleTargetRef"]["name"], spec["maxReplicaCount"]) == ("digits", 8)
        assert "replicas" not in _fields_of(
            cluster.read("deployment", "digits", "-n", namespace, "--show-managed-fields")
        )
        until(lambda: "CRDNotInstalled" not in condition(cluster, namespace, "Degraded")["reason"])
        broken = {"type": "Ready", "status": "False", "reason": "TriggerError", "message": "no broker"}
        patch = ("patch", "scaledobject", "digits", "-n", namespace, "--subresource=status", "--type=merge", "-p")
        cluster.kubectl(*patch, json.dumps({"status": {"conditions": [broken]}}))
        told = becomes(cluster, namespace, "Scaling", "False", "TriggerError")
        assert "KEDA can't scale, and holds the number of pods: no broker" in told["message"]
        apply(cluster, namespace)
        until(lambda: there(cluster, namespace, "horizontalpodautoscaler", "digits"))
        until(lambda: not there(cluster, namespace, "scaledobject", "digits"))


def test_a_route_takes_the_place_of_an_ingress(cluster: ApiServer, namespace: str, operator: Operator) -> None:
    apply(cluster, namespace, network={"ingress": {"host": "digits.example"}})
    until(lambda: there(cluster, namespace, "ingress", "digits"))
    route = {"route": {"parentRefs": [{"name": "public"}], "hostnames": ["digits.example"]}}
    apply(cluster, namespace, network=route)
    told = becomes(cluster, namespace, "Degraded", "True", "CRDNotInstalled")
    assert "the cluster does not know HTTPRoute: install the Gateway API, or use network.ingress" in told["message"]
    assert there(cluster, namespace, "ingress", "digits")  # the way in stays open until there is another
    with known(cluster, "httproutes"):
        until(lambda: there(cluster, namespace, "httproute", "digits"), timeout=60)
        until(lambda: not there(cluster, namespace, "ingress", "digits"))


def _fields_of(deployment: dict[str, Any]) -> set[str]:
    """What of a Deployment's spec the operator applies."""
    (ours,) = (one for one in deployment["metadata"]["managedFields"] if one["manager"] == "podpair-operator")
    return {name.removeprefix("f:") for name in ours["fieldsV1"]["f:spec"]}
