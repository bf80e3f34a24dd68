"""One API server for the tests of this folder, with the CRD in it, and a namespace for each test."""

import sys
from collections.abc import Iterator
from itertools import count

import pytest

from harness.kubernetes import ApiServer
from harness.processes import ROOT, Child
from podpair.operator.core.crd import NAME

CRD = ROOT / "charts" / "podpair-crds" / "templates" / "crd.yaml"
_numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test here may have to wait until Kubernetes is built."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "cluster"):
            item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[ApiServer]:
    """A running API server that has never heard of podpair, until `cluster` is asked for."""
    running = ApiServer()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def cluster(bare_cluster: ApiServer) -> ApiServer:
    """A running API server that knows InferenceGateways."""
    bare_cluster.kubectl("apply", "--server-side", "-f", str(CRD))
    bare_cluster.await_kind(NAME)
    return bare_cluster


@pytest.fixture
def namespace(cluster: ApiServer) -> str:
    """A namespace of the test's own, where pods must pass the restricted Pod Security Standard."""
    name = f"test-{next(_numbers)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


@pytest.fixture
def proxy(cluster: ApiServer) -> Iterator[str]:
    """The address of a proxy before the API server."""
    running = Child(sys.executable, "-P", ROOT / "tests" / "harness" / "api_proxy.py", cluster.url)
    yield running.wait_for_message("listening")["address"]
    running.kill()
