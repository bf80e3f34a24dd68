"""`podpair status` on a real API server: what a person is told, and a program."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.kubernetes import ApiServer
from harness.processes import BIN, completed, free_port, output_of
from harness.resources import EXAMPLE


def podpair(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent), "NO_PROXY": "*"}
    return completed(BIN / "podpair", *arguments, env=environment)


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}  # fmt: skip


def stands(cluster: ApiServer, namespace: str, **status: Any) -> None:
    patch = json.dumps({"status": status})
    cluster.kubectl("patch", "igw", "digits", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def pod(cluster: ApiServer, namespace: str, name: str, status: dict[str, Any]) -> None:
    labels = {"app.kubernetes.io/name": "podpair", "podpair.dev/gateway": "digits"}
    confined = {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    spec = {"containers": [{"name": "gateway", "image": "x", "securityContext": confined}]}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    patch = json.dumps({"status": status})
    cluster.kubectl("patch", "pod", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def test_it_tells_what_a_resource_waits_for(cluster: ApiServer, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    told = podpair(cluster.kubeconfig, "status", "digits", "-n", namespace)
    assert told.returncode == 0, told.stderr
    assert "the operator, which has not seen this resource yet" in told.stdout

    refused = condition("KafkaReady", "False", "RepartitionRefused", "topic t has 12 partitions and stays so")
    notready = condition("Ready", "False", "KafkaNotReady", "see KafkaReady")
    fine = condition("Degraded", "False", "AsExpected")
    stands(
        cluster, namespace, conditions=[notready, refused, fine], ready="1/2", sessions=118, version="3",
        observedGeneration=1,
    )  # fmt: skip
    pod(cluster, namespace, "digits-1", {"conditions": [{"type": "Ready", "status": "True"}]})
    pull = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    container = {"name": "gateway", "image": "x", "imageID": "", "ready": False, "restartCount": 2,
                 "state": {"waiting": pull}}  # fmt: skip
    pod(cluster, namespace, "digits-2", {"containerStatuses": [container]})

    told = podpair(cluster.kubeconfig, "status", "digits", "-n", namespace)
    lines = [line.split() for line in told.stdout.splitlines()]
    assert lines[0] == [f"{namespace}/digits", "Ready:", "False"]
    assert ["pods", "1/2", "ready"] in lines
    assert ["sessions", "118"] in lines
    assert ["lag", "not", "known"] in lines
    assert ["digits-1", "ready"] in lines
    waits = told.stdout.split("waits for\n")[1].splitlines()
    assert waits == [
        "  KafkaReady RepartitionRefused: topic t has 12 partitions and stays so",
        "  pod digits-2: container gateway: ImagePullBackOff: Back-off pulling image",
    ]

    # What a condition tells of a pod, with what to do about it, is not told again.
    image = condition(
        "Degraded", "True", "ImagePullBackOff", "pod digits-2: container gateway: image x can't be pulled: y"
    )
    stands(cluster, namespace, conditions=[notready, refused, image])
    told = podpair(cluster.kubeconfig, "status", "digits", "-n", namespace)
    assert told.stdout.split("waits for\n")[1].splitlines() == [
        waits[0],
        f"  Degraded ImagePullBackOff: {image['message']}",
    ]
    stands(cluster, namespace, conditions=[notready, refused, fine])

    program = json.loads(podpair(cluster.kubeconfig, "status", "digits", "-n", namespace, "-o", "json").stdout)
    assert (program["sessions"], program["lag"], program["waits_for"]) == (118, None, [line.strip() for line in waits])
    assert program["topics"][0] == f"{namespace}.digits.requests"


def test_a_resource_that_is_well_waits_for_nothing(cluster: ApiServer, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    stands(cluster, namespace, conditions=[condition("Ready", "True", "Serving")], lag=0, observedGeneration=1)
    told = podpair(cluster.kubeconfig, "status", "digits", "-n", namespace).stdout
    assert told.splitlines()[-1] == "waits for nothing"
    patch = json.dumps({"spec": {"scaling": {"max": 9}}})
    cluster.kubectl("patch", "igw", "digits", "-n", namespace, "--type=merge", "-p", patch)
    told = podpair(cluster.kubeconfig, "status", "digits", "-n", namespace).stdout
    assert "the operator, which has seen generation 1 of 2" in told


def test_what_is_not_there_is_told_in_a_sentence(cluster: ApiServer, namespace: str, tmp_path: Path) -> None:
    told = podpair(cluster.kubeconfig, "status", "nobody", "-n", namespace)
    assert (told.returncode, told.stderr) == (1, f"podpair: there is no InferenceGateway {namespace}/nobody\n")
    told = podpair(tmp_path / "none", "status", "digits")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("podpair: there is no cluster to ask: ")
    away = tmp_path / "away"
    away.write_text(cluster.kubeconfig.read_text().replace(cluster.url, f"https://127.0.0.1:{free_port()}"))
    told = podpair(away, "status", "digits")
    assert told.returncode == 2
    assert "doesn't answer" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.process
@pytest.mark.parametrize("command", ["status", "plan"])
def test_commands_tell_what_they_do(command: str) -> None:
    assert "-h, --help" in output_of(BIN / "podpair", command, "-h")
