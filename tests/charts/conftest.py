"""Helm, and one API server for the tests of this folder: nothing runs on it, so charts are installed without waiting."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from harness.helm import Helm
from harness.kubernetes import ApiServer
from harness.processes import ROOT

_numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test here may have to wait until Kubernetes and Helm are built."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "charts"):
            item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster: lint, template, package."""
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[ApiServer]:
    """A running API server, in which nothing is podpair's before a test installs it."""
    running = ApiServer()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def helm_at(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm at the API server."""
    return Helm(tmp_path_factory.mktemp("helm"), cluster)


@pytest.fixture
def namespace(cluster: ApiServer) -> str:
    """A namespace of the test's own, where pods must pass the restricted Pod Security Standard."""
    name = f"charts-{next(_numbers)}"
    # warn as well: the API server checks a Deployment's pods only for warnings.
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


Install = Callable[..., str]


@pytest.fixture
def release(cluster: ApiServer, helm_at: Helm, namespace: str) -> Iterator[Install]:
    """`release(verb, chart, *arguments, values)` in the test's namespace; it is uninstalled, and the CRD forgotten, after it."""

    def run(verb: str, chart: str | Path, *arguments: str, values: dict[str, Any] | None = None) -> str:
        return helm_at(verb, "podpair", chart, "--namespace", namespace, *arguments, values=values)

    yield run
    helm_at("uninstall", "podpair", "--namespace", namespace, "--ignore-not-found")
    cluster.kubectl("delete", "crd", "--ignore-not-found", "inferencegateways.podpair.dev")
