"""The operator, installed by its chart."""

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from e2e.stage import Stage
from harness.helm import CHARTS, Helm
from harness.kubernetes import Refused

RELEASE = NAMESPACE = "podpair"
#: Everything is looked at this often besides the watch, so that a test sees it happen; and the tests' Kafka has no TLS.
VALUES: dict[str, Any] = {"resyncSeconds": 10, "brokers": {"allowReadableCredentials": True}}
#: Who the operator is to the API server.
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-podpair-operator"


class Installed:
    """The release, and the operator's pods."""

    def __init__(self, stage: Stage, home: Path) -> None:
        self._cluster = stage.cluster
        self.helm = Helm(home, stage.cluster)

    def install(self, chart: Path = CHARTS / "podpair-operator", **changed: Any) -> None:
        """`helm upgrade --install`, until all of its pods are the newest and ready. Raises harness.helm.Failed."""
        self.helm(
            *("upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE, "--create-namespace"),
            *("--wait", "--timeout", "240s"),
            values=VALUES | changed,
        )

    def uninstall(self) -> None:
        """`helm uninstall`, until its pods are gone. Raises harness.helm.Failed."""
        self.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "240s")

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints, in the operator's namespace. Raises Refused."""
        return self._cluster.kubectl("-n", NAMESPACE, *arguments)

    def pods(self) -> list[str]:
        """The names of its pods that are not on their way out."""
        found = self._cluster.read("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=podpair-operator")["items"]
        return [one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]]

    def kill(self) -> None:
        """As if its node had died."""
        for pod in self.pods():
            self.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples of all pods that have these labels."""
        found = 0.0
        for pod in self.pods():
            text = self.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/metrics")
            samples = (s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)
            found += sum(sample.value for sample in samples if labels.items() <= sample.labels.items())
        return found

    def story(self) -> str:
        """What its pods said last."""
        try:
            return self.kubectl("logs", "-l", "app.kubernetes.io/name=podpair-operator", "--prefix", "--tail=60")
        except Refused as refused:
            return str(refused)
