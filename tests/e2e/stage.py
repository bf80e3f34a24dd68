"""Where the end-to-end tests play: the throw-away node, or the cluster that PODPAIR_E2E_KUBECONFIG names (`make e2e` sets it).

On a cluster of your own PODPAIR_E2E_KAFKA_HOST is an address of this machine that its pods reach, and PODPAIR_E2E_LOAD a
command that takes images of the local docker into it: `kind load docker-image`. Without it they must be there already.
"""

import importlib.metadata
import json
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness.images import Docker
from harness.kafka import Broker
from harness.kubernetes import Cluster, Refused
from harness.machine import require
from harness.node import Node
from harness.processes import ROOT, Child

HERE = Path(__file__).parent
_TAG = "e2e"
_VERSION = importlib.metadata.version("podpair-operator")


class Images(NamedTuple):
    """The images that the tests run."""

    operator: str = f"podpair-operator:{_VERSION}"
    gateway: str = f"podpair-gateway:{_VERSION}"
    digits: str = "registry.example/digits:3"
    """The digits model, with versions 2 and 3, as the example names it."""
    newer: str = "registry.example/digits:4"
    """The same with versions 3 and 4."""


class Stage:
    """A cluster with the images in it, and a Kafka that its pods reach at `kafka.address`."""

    images = Images()

    def __init__(self, cluster: Cluster, kafka: Broker, node: Node | None) -> None:
        self.cluster = cluster
        self.kafka = kafka
        self.node = node
        """None: a cluster of somebody's own."""


@contextmanager
def throw_away() -> Iterator[Stage]:
    """The node, ended when the tests are done."""
    node = Node()
    try:
        docker = Docker()
        try:
            docker.base()
            build(docker)
            with tempfile.TemporaryDirectory(prefix="podpair-images-") as folder:
                docker.docker("save", "--output", f"{folder}/images.tar", *Images())
                node.load(Path(folder) / "images.tar")
        finally:
            docker.close()
        kafka = Broker(host=node.address, entrance=node.entrance)
        try:
            yield Stage(node, kafka, node)
        finally:
            kafka.stop()
    finally:
        node.stop()


@contextmanager
def somebodys(kubeconfig: Path) -> Iterator[Stage]:
    """A cluster that is there already."""
    if load := os.environ.get("PODPAIR_E2E_LOAD"):
        (docker,) = require("docker")
        build(docker)
        subprocess.run([*shlex.split(load), *Images()], check=True)
    kafka = Broker(host=os.environ.get("PODPAIR_E2E_KAFKA_HOST", "127.0.0.1"))
    try:
        yield Stage(Cluster(kubeconfig), kafka, None)
    finally:
        kafka.stop()


def build(docker: Docker) -> None:
    """The project's images, and the example's under two names."""
    docker.images(_TAG)
    for image, versions in ((Images().digits, "2 3"), (Images().newer, "3 4")):
        arguments = (f"DIGITS=podpair-digits:{_TAG}", f"VERSIONS={versions}")
        flags = [part for argument in arguments for part in ("--build-arg", argument)]
        docker.docker("build", "-q", *flags, "-t", image, str(HERE / "digits"))


class Space:
    """A namespace of a test's own, where pods must pass the restricted Pod Security Standard, with a client's pod in it."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "podpair.dev/test": "e2e"}
        stage.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    # --- objects ---

    def apply(self, *objects: dict[str, Any]) -> None:
        """kubectl apply, in this namespace. Raises Refused."""
        self.stage.cluster.apply(*objects, options=("--server-side", "-n", self.name))

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints. Raises Refused."""
        return self.stage.cluster.kubectl("-n", self.name, *arguments, given=given)

    def read(self, *what: str) -> dict[str, Any] | None:
        """One object; None where there is none."""
        try:
            return self.stage.cluster.read(*what, "-n", self.name)
        except Refused as refused:
            if "NotFound" in str(refused):
                return None
            raise

    def items(self, *what: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        found: list[dict[str, Any]] = self.stage.cluster.read(*what, "-n", self.name)["items"]
        return found

    def secret(self, name: str, **data: str) -> None:
        """Make a Secret, or change it."""
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})

    # --- the client's pod ---

    def client(self) -> None:
        """Start the client's pod, and wait until it runs: the gateway's image, with the scripts of `inside`."""
        scripts = [*(HERE / "inside").glob("*.py"), ROOT / "tests/harness/checking.py"]
        data = {file.name: file.read_text() for file in scripts}
        confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": "client",
            "image": self.stage.images.gateway,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "infinity"],
            "securityContext": confined,
            "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
        }
        spec = {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "scripts", "configMap": {"name": "client"}}],
        }
        self.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "client"}, "data": data},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": spec},
        )
        self.kubectl("wait", "pod/client", "--for=condition=Ready", "--timeout=60s")

    def run(self, script: str, **arguments: Any) -> Any:
        """What a script of `inside` prints, run in the client's pod; the arguments are given to it as JSON. Raises Refused."""
        command = ("exec", "-i", "client", "--", "python3", f"/scripts/{script}.py")
        return json.loads(self.kubectl(*command, given=json.dumps(arguments)))

    def start(self, script: str, **arguments: Any) -> Child:
        """The same, running; each line that it writes to standard error can be waited for."""
        command = self.stage.cluster.command(
            "-n", self.name, "exec", "client", "--", "python3", f"/scripts/{script}.py"
        )
        return Child(*command, json.dumps(arguments), env=self.stage.cluster.environment)

    # --- waiting ---

    def until(self, condition: Callable[[], Any], what: str, timeout: float) -> float:
        """Until it is so; returns the seconds that it took. Raises AssertionError, telling what was waited for."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > timeout:
                raise AssertionError(f"{self.name}: not in {timeout:.0f} s: {what}\n\n{self.story()}")
            time.sleep(0.1)
        return time.monotonic() - begun

    def story(self) -> str:
        """What one would look at to find out why."""
        asked = [
            ("get", "igw,deployments,pods,hpa", "-o", "wide"),
            ("describe", "igw"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", "app.kubernetes.io/name=podpair", "--all-containers", "--prefix", "--tail=15"),
        ]
        told = []
        for arguments in asked:
            try:
                told.append(f"$ kubectl {' '.join(arguments)}\n{self.kubectl(*arguments)}")
            except Refused as refused:
                told.append(f"$ kubectl {' '.join(arguments)}\n{refused}")
        return "\n".join(told)

    def delete(self) -> None:
        """Let it go; nobody waits for that."""
        self.stage.cluster.kubectl("delete", "namespace", self.name, "--wait=false")
