"""A resource that a newer CRD took and this operator can't read: nothing of it is changed, and it can be deleted."""

from collections.abc import Iterator

import pytest
import yaml

from cluster.conftest import CRD
from harness.kubernetes import ApiServer
from harness.operator import NOBODY, Operator
from harness.reconciled import apply, becomes, there
from harness.waiting import until


@pytest.fixture
def newer(cluster: ApiServer) -> Iterator[ApiServer]:
    """The cluster knows the next version of the resource, which has a field more."""
    crd = yaml.safe_load(CRD.read_text())
    (version,) = crd["spec"]["versions"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["future"] = {"type": "string"}
    cluster.apply(crd, options=("--server-side", "--force-conflicts"))
    until(lambda: "future" in cluster.kubectl("explain", "igw.spec"), timeout=60)
    yield cluster
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
def test_it_is_told_and_can_be_deleted(newer: ApiServer, namespace: str, policy: str) -> None:
    operator = Operator(newer, namespace)
    try:
        apply(newer, namespace, kafka={"bootstrapServers": NOBODY, "deletionPolicy": policy})
        until(lambda: there(newer, namespace, "deployment", "digits"))
        patch = '{"spec": {"future": "x"}}'
        newer.kubectl("patch", "igw", "digits", "-n", namespace, "--type=merge", "-p", patch)
        becomes(newer, namespace, "Ready", "False", "InvalidSpec")
        held = newer.read("igw", "digits", "-n", namespace)["metadata"].get("finalizers", [])
        assert ("podpair.dev/topics" in held) == (policy == "Delete")
        newer.kubectl("delete", "igw", "digits", "-n", namespace, "--wait=false")
        until(lambda: not there(newer, namespace, "igw", "digits"))
        events = newer.kubectl("get", "events", "-n", namespace)
        assert ("TopicsLeft" in events) == (policy == "Delete")
    finally:
        operator.stop()
