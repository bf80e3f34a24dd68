"""`podpair`, as someone types it."""

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from harness.resources import EXAMPLE, resource
from podpair.common.faults import FaultsError
from podpair.common.gateway_config.clients import Sessions
from podpair.gateway.auth.resume import ResumeTokens
from podpair.operator.cli.main import cli
from podpair.operator.controller.dependencies import read_resume_key


def podpair(*arguments: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=given)


def test_validate_says_that_a_file_is_good() -> None:
    done = podpair("validate", EXAMPLE)
    assert (done.exit_code, done.stdout) == (0, f"{EXAMPLE}: digits is good\n")


def test_validate_tells_all_faults_and_fails() -> None:
    text = EXAMPLE.read_text().replace("min: 2", "min: 20").replace("image:", "imge:")
    done = podpair("validate", "-", given=text)
    assert done.exit_code == 2
    assert done.stdout == ""
    first, *faults = done.stderr.splitlines()
    assert first == "podpair: 3 faults in -"
    assert faults == [
        "  line 8: spec.inference.image: is required",
        "  line 9: spec.inference.imge: there is no such field; did you mean image?",
        "  line 17: spec.scaling: min (20) is greater than max (10)",
    ]


def test_a_file_that_can_t_be_read(tmp_path: Path) -> None:
    done = podpair("plan", tmp_path / "none.yaml")
    assert (done.exit_code, done.stderr) == (2, f"podpair: {tmp_path / 'none.yaml'}: No such file or directory\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert podpair("plan", binary).stderr == f"podpair: {binary}: not UTF-8\n"


def test_plan_prints_the_objects_for_a_namespace() -> None:
    done = podpair("plan", EXAMPLE, "-n", "ml", "--pod-monitor", "--gateway-image", "mine:1")
    assert done.exit_code == 0, done.output
    assert "&id" not in done.stdout  # no anchors: people read this
    objects = list(yaml.safe_load_all(done.stdout))
    assert [one["kind"] for one in objects] == [
        "ServiceAccount", "Secret", "ConfigMap", "ConfigMap", "Service", "NetworkPolicy", "Deployment",
        "PodDisruptionBudget", "HorizontalPodAutoscaler", "PodMonitor",
    ]  # fmt: skip
    assert {one["metadata"]["namespace"] for one in objects} == {"ml"}
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    (gateway,) = deployment["spec"]["template"]["spec"]["containers"]
    assert gateway["image"] == "mine:1"


def test_plan_lets_the_operator_s_namespace_in() -> None:
    for arguments, namespace in (((), "podpair"), (("--operator-namespace", "ops"), "ops")):
        objects = list(yaml.safe_load_all(podpair("plan", EXAMPLE, *arguments).stdout))
        (policy,) = (one for one in objects if one["kind"] == "NetworkPolicy")
        peers = policy["spec"]["ingress"][1]["from"]
        assert peers[0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


SECRETS = {"secretName": "broker", "mechanism": "SCRAM-SHA-512"}
PLANNED = {
    "as it comes": {},
    "KEDA with credentials": {
        "scaling": {"min": 1, "max": 4, "provider": "keda", "metrics": [{"lag": 5}]},
        "kafka__sasl": SECRETS,
        "kafka__tls": {"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}},
    },
    "versions, labels and a way in": {
        "inference__models": [{"name": "d", "versions": [{"version": v, "weight": 50} for v in ("1", "2")]}],
        "network": {"ingress": {"host": "d.example", "annotations": {"b": "1", "a": "2"}}},
        "inference__podTemplate": {"metadata": {"labels": {"z": "1", "a": "2"}}},
    },
}


@pytest.mark.process
@pytest.mark.parametrize("changed", PLANNED.values(), ids=PLANNED.keys())
def test_plan_is_the_same_each_time_to_the_byte(changed: dict[str, Any], tmp_path: Path) -> None:
    """In processes whose hashes differ, so that no order may come of a set."""
    file = tmp_path / "resource.yaml"
    file.write_text(yaml.safe_dump(resource(**changed)))
    command = [sys.executable, "-c", "from podpair.operator.cli.main import main; main()", "plan", str(file)]
    plans = {
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True).stdout
        for seed in ("1", "2", "3")
    }
    assert len(plans) == 1


def test_the_key_in_a_plan_is_none_that_an_operator_or_a_gateway_takes(tmp_path: Path) -> None:
    """Whoever applies a plan must not have tokens signed by a key that everybody knows."""
    objects = list(yaml.safe_load_all(podpair("plan", EXAMPLE).stdout))
    (secret,) = (one for one in objects if one["kind"] == "Secret")
    assert read_resume_key(secret) is None
    file = tmp_path / "key"
    file.write_bytes(base64.b64decode(secret["data"]["resume-key"]))
    with pytest.raises(FaultsError, match="32 are needed"):
        ResumeTokens(Sessions(resume_secret_file=file))


def test_plan_of_a_wrong_resource_prints_no_object() -> None:
    done = podpair("plan", "-", given="kind: InferenceGateway\n")
    assert (done.exit_code, done.stdout) == (2, "")


def test_validate_tells_what_an_installation_forbids_where_it_is_told_the_policy(tmp_path: Path) -> None:
    made = resource(
        kafka__sasl={"secretName": "kafka", "mechanism": "PLAIN"},
        inference__podTemplate={"spec": {"hostNetwork": True}},
    )
    text, values = yaml.safe_dump(made, sort_keys=False), tmp_path / "values.yaml"
    assert podpair("validate", "-", given=text).exit_code == 0
    values.write_text("replicas: 2\npodTemplate: {forbidden: [spec.hostNetwork]}\n")
    done = podpair("validate", "-", "--policy", values, given=text)
    assert done.exit_code == 2
    assert "2 faults" in done.output
    assert (
        "spec.inference.podTemplate sets spec.hostNetwork of the pods, which this installation forbids" in done.output
    )
    assert "spec.kafka: SASL PLAIN sends its credentials in the clear" in done.output
    values.write_text("brokers: {allowReadableCredentials: true}\n")
    assert podpair("validate", "-", "--policy", values, given=text).exit_code == 0
    values.write_text("podTemplate: {forbidden: [hostNetwork]}\n")
    done = podpair("validate", "-", "--policy", values, given=text)
    assert done.exit_code == 2
    assert "holds no values of the chart podpair-operator" in done.output
