"""Where the end-to-end tests play: the throw-away node, or the cluster that PODPAIR_E2E_KUBECONFIG names (`make e2e` sets it).

On a cluster of your own PODPAIR_E2E_KAFKA_HOST is an address of this machine that its pods reach, and PODPAIR_E2E_LOAD a
command that takes images of the local docker into it: `kind load docker-image`. Without it they must be there already.
"""

import importlib.metadata
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.images import Docker, PrivateDocker
from harness.kafka import SecureBroker
from harness.kubernetes import Cluster
from harness.machine import require_root
from harness.node import Node

HERE = Path(__file__).parent
_TAG = "e2e"
_VERSION = importlib.metadata.version("podpair-operator")


class Images(NamedTuple):
    """The images that the tests run."""

    operator: str = f"podpair-operator:{_VERSION}"
    gateway: str = f"podpair-gateway:{_VERSION}"
    digits: str = f"podpair-digits:{_VERSION}"
    """The digits model, version 1."""
    newer: str = "podpair-digits:newer"
    """With version 2 besides."""


class Stage:
    """A cluster with the images in it, and a Kafka that its pods reach at `kafka.address`."""

    images = Images()

    def __init__(self, cluster: Cluster, kafka: SecureBroker, node: Node | None) -> None:
        self.cluster = cluster
        self.kafka = kafka
        self.node = node
        """None: a cluster of somebody's own."""


@contextmanager
def throw_away() -> Iterator[Stage]:
    """The node, ended when the tests are done."""
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        require_root()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="podpair-images-"))
        building = threads.submit(saved, Path(folder))
        node = Node()
        stack.callback(node.stop)
        kafka = SecureBroker(host=node.address, entrance=node.entrance)
        stack.callback(kafka.stop)
        node.load(building.result())
        yield Stage(node, kafka, node)


def saved(folder: Path) -> Path:
    """The images, in a file."""
    docker = PrivateDocker()
    try:
        docker.base()
        build(docker)
        docker.docker("save", "--output", str(folder / "images.tar"), *Images())
    finally:
        docker.close()
    return folder / "images.tar"


@contextmanager
def somebodys(kubeconfig: Path) -> Iterator[Stage]:
    """A cluster that is there already."""
    if load := os.environ.get("PODPAIR_E2E_LOAD"):
        build(Docker())
        subprocess.run([*shlex.split(load), *Images()], check=True)
    kafka = SecureBroker(host=os.environ.get("PODPAIR_E2E_KAFKA_HOST", "127.0.0.1"))
    try:
        yield Stage(Cluster(kubeconfig), kafka, None)
    finally:
        kafka.stop()


def build(docker: Docker) -> None:
    """The project's images, and the example's next one."""
    docker.images(_TAG)
    docker.docker("build", "-q", "--build-arg", f"DIGITS={Images().digits}", "-t", Images().newer, str(HERE / "digits"))
