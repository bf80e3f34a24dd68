"""`podpair-operator serve` as a process of its own, and the hands of a kubelet: statuses of pods that no node runs."""

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from harness.kubernetes import ApiServer, Cluster
from harness.processes import BIN, Child

NOBODY = "127.0.0.1:1"  # where no broker listens


class Operator(Child):
    """An operator for one namespace of a cluster; settings by their names without the prefix."""

    def __init__(self, cluster: Cluster, namespaces: str, *, wait: bool = True, **settings: Any) -> None:
        chosen = {
            "namespaces": namespaces,
            "namespace": namespaces or "default",
            "identity": "first",
            "gateway_image": "podpair-gateway:test",
            "http__host": "127.0.0.1",
            "http__port": 0,
            "metrics_api__enabled": "never",
            "lease__duration_seconds": 3,
            "watch_seconds": 5,
            "kafka_seconds": 1,
            "scrape_seconds": 1,
        } | settings
        env = {f"PODPAIR_OPERATOR_{name.upper()}": str(value) for name, value in chosen.items()}
        env["KUBECONFIG"] = str(settings.get("kubeconfig", cluster.kubeconfig))
        super().__init__(BIN / "podpair-operator", "serve", env=env)
        if wait:
            self.url: str = self.wait_for_message("started")["address"]
            self.wait_for_message("ready")

    def get(self, path: str) -> tuple[int, str]:
        """GET of /healthz, /readyz or /metrics: status and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = (s for family in families for s in family.samples if s.name == name)
        return sum(s.value for s in samples if labels.items() <= s.labels.items())


def writes(cluster: ApiServer) -> dict[str, float]:
    """Writes that the API server has counted, by resource and verb, but for Leases, and what it writes itself."""
    from prometheus_client.parser import text_string_to_metric_families

    counted: dict[str, float] = {}
    for family in text_string_to_metric_families(cluster.get("/metrics").decode()):
        for sample in family.samples:
            if sample.name == "apiserver_request_total" and sample.labels["verb"] in _WRITING:
                name = f"{sample.labels['verb']} {sample.labels['resource']}/{sample.labels['subresource']}"
                if sample.labels["resource"] not in _ITS_OWN:
                    counted[name] = counted.get(name, 0.0) + sample.value
    return counted


_WRITING = {"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"}
_ITS_OWN = {"leases", "endpoints", "endpointslices", "ipaddresses", "selfsubjectaccessreviews", "subjectaccessreviews"}


class Kubelet:
    """Makes what Deployment controller, scheduler and kubelet would make of a Deployment, and says of it what is told."""

    def __init__(self, cluster: ApiServer, namespace: str, name: str = "digits") -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name

    def run_pod(self, *, revision: int = 1) -> str:
        """A ReplicaSet and one pod of the Deployment as it is now; returns the pod's name."""
        deployment = self._cluster.read("deployment", self._name, "-n", self._namespace)
        template = deployment["spec"]["template"]
        labels = {**template["metadata"]["labels"], "pod-template-hash": f"h{revision}"}
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{self._name}-h{revision}",
                "namespace": self._namespace,
                "labels": labels,
                "annotations": {"deployment.kubernetes.io/revision": str(revision)},
                "ownerReferences": [_owner(deployment)],
            },
            "spec": {
                "replicas": 1,
                "selector": {
                    "matchLabels": {
                        **deployment["spec"]["selector"]["matchLabels"],
                        "pod-template-hash": f"h{revision}",
                    }
                },
                "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
            },
        }
        self._cluster.apply(replica_set)
        made = self._cluster.read("replicaset", f"{self._name}-h{revision}", "-n", self._namespace)
        name = f"{self._name}-h{revision}-x1"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": self._namespace,
                "labels": labels,
                "ownerReferences": [_owner(made)],
            },
            "spec": template["spec"],
        }
        self._cluster.apply(pod)
        return name

    def says(self, kind: str, name: str, status: dict[str, Any]) -> None:
        """The status of an object, as whoever runs it tells it."""
        self._cluster.kubectl(
            "patch", kind, name, "-n", self._namespace, "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": status}),
        )  # fmt: skip

    def pod(
        self,
        name: str,
        *,
        inference: dict[str, Any] | None = None,
        gateway: dict[str, Any] | None = None,
        **status: Any,
    ) -> None:
        """What the two containers of a pod do; given are their states."""
        containers = {
            key: [
                {
                    "name": container,
                    "image": f"{container}:1",
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    **found,
                }
            ]
            for key, container, found in (
                ("initContainerStatuses", "inference", inference),
                ("containerStatuses", "gateway", gateway),
            )
            if found is not None
        }
        self.says("pod", name, {**containers, **status})

    def ready(self, pods: int) -> None:
        """The Deployment's pods are all there and ready."""
        deployment = self._cluster.read("deployment", self._name, "-n", self._namespace)
        self.says(
            "deployment",
            self._name,
            {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": pods,
                "updatedReplicas": pods,
                "readyReplicas": pods,
                "availableReplicas": pods,
            },
        )


def _owner(one: dict[str, Any]) -> dict[str, Any]:
    metadata = one["metadata"]
    return {
        "apiVersion": one["apiVersion"],
        "kind": one["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }


def kubeconfig_at(cluster: Cluster, server: str, folder: Path, token: str | None = None) -> Path:
    """A copy of the cluster's kubeconfig for another address, or another user."""
    import yaml

    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["clusters"][0]["cluster"]["server"] = server
    if token is not None:
        content["users"][0]["user"] = {"token": token}
    path = folder / f"kubeconfig-{os.urandom(4).hex()}"
    path.write_text(yaml.safe_dump(content))
    return path
