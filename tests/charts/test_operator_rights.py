"""The rights that podpair-operator gives are enough: the operator works as the chart's service account, with its settings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charts.conftest import Install
from harness.helm import CHARTS
from harness.kubernetes import ApiServer, Refused
from harness.operator import NOBODY, Operator, kubeconfig_at
from harness.resources import resource
from harness.waiting import until

API_SERVICE = "v1beta1.external.metrics.k8s.io"
PREFIX = "PODPAIR_OPERATOR_"


@pytest.fixture
def api_service(cluster: ApiServer) -> Iterator[str]:
    """The APIService that the operator makes; here no garbage collector runs that would take it away."""
    yield API_SERVICE
    cluster.kubectl("delete", "apiservice", API_SERVICE, "--ignore-not-found")


def read(cluster: ApiServer, *what: str) -> dict[str, Any] | None:
    try:
        return cluster.read(*what)
    except Refused as refused:
        if "NotFound" in str(refused):
            return None
        raise


@pytest.mark.parametrize("scope", ["cluster", "namespace"])
def test_the_operator_works_with_the_rights_of_its_chart(
    cluster: ApiServer, release: Install, namespace: str, api_service: str, tmp_path: Path, scope: str
) -> None:
    watched = [namespace] if scope == "namespace" else []
    release("install", CHARTS / "podpair-operator", values={"watchNamespaces": watched, "log": {"level": "debug"}})
    cluster.await_kind("inferencegateways.podpair.dev")
    deployment = cluster.read("deployment", "podpair-operator", "-n", namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    settings = {
        one["name"].removeprefix(PREFIX).lower(): one["value"]
        for one in container["env"]
        if one["name"].startswith(PREFIX) and one.get("value")
    }
    settings |= {"namespace": namespace, "http__host": "127.0.0.1", "http__port": 0, "metrics_api__port": 0}
    token = cluster.kubectl("create", "token", "podpair-operator", "-n", namespace).strip()
    settings["kubeconfig"] = kubeconfig_at(cluster, cluster.url, tmp_path, token)
    operator = Operator(cluster, settings.pop("namespaces", ""), **settings)
    try:
        cluster.apply(resource(kafka__bootstrapServers=NOBODY), options=("--server-side", "-n", namespace))

        def made() -> bool:
            found = [
                read(cluster, kind, "digits", "-n", namespace) for kind in ("deployment", "service", "sa", "pdb", "hpa")
            ]
            said = cluster.read("igw", "digits", "-n", namespace).get("status", {}).get("conditions")
            events = cluster.read("events", "-n", namespace)["items"]
            served = read(cluster, "apiservice", api_service)
            return all(found) and bool(said) and bool(events) and served is not None

        until(made, lambda: "\n".join(operator.lines[-40:]), timeout=60)
        role = cluster.read("clusterrole", settings["metrics_api__owner"])
        certificate = cluster.read("secret", settings["metrics_api__secret"], "-n", namespace)
        for kept in (certificate, cluster.read("apiservice", api_service)):
            (owner,) = kept["metadata"]["ownerReferences"]
            assert owner["uid"] == role["metadata"]["uid"]
        assert cluster.read("lease", settings["lease__name"], "-n", namespace)["spec"]["holderIdentity"] == "first"
        # What the resource no longer asks for is deleted, what somebody else deletes is made again.
        cluster.kubectl("delete", "service", "digits", "-n", namespace)
        cluster.kubectl("patch", "igw", "digits", "-n", namespace, "--type=merge", "-p", '{"spec": {"replicas": 1}}')
        until(
            lambda: (
                read(cluster, "hpa", "digits", "-n", namespace) is None
                and read(cluster, "service", "digits", "-n", namespace) is not None
            ),
            lambda: "\n".join(operator.lines[-40:]),
            timeout=60,
        )
    finally:
        operator.kill()
    refused = [line for line in operator.lines if "forbidden" in line.lower() or "Forbidden" in line]
    assert refused == []
