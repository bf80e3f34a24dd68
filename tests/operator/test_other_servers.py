"""Servers that aren't podpair's as the other half of the pair: Triton above all, as its own documentation has it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness.processes import ROOT
from harness.resources import resource
from podpair.operator.cli.main import cli
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.desired import Dependencies, desired

TRITON = ROOT / "examples" / "triton" / "inferencegateway.yaml"
# Sources: triton-inference-server/server, src/command_line_parser.cc (options and their defaults) and
# docs/customization_guide/deploy.md (the user, what is recommended).
DEFAULTS = {
    "http-address": "0.0.0.0",
    "http-port": 8000,
    "grpc-address": "0.0.0.0",
    "grpc-port": 8001,
    "metrics-port": 8002,  # at metrics-address, which is http-address
    "model-control-mode": "none",
    "model-repository": None,
}
USER = 1000  # triton-server; the image itself runs as root
RESTRICTED_CAPABILITIES = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
OTHER = {"inference__server": "other", "inference__models": [{"name": "digits"}], "scaling": {"metrics": [{"lag": 5}]}}


def planned(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["plan", str(TRITON), "--pod-monitor", *arguments])
    assert done.exit_code == 0, done.output
    objects = list(yaml.safe_load_all(done.stdout))
    assert len({one["kind"] for one in objects}) == len(objects)
    return {one["kind"]: one for one in objects}


def inference(**changed: Any) -> dict[str, Any]:
    around = Dependencies("podpair-gateway:test", "k" * 43)
    made = desired(InferenceGateway.model_validate(resource(**changed)), around)
    (container,) = next(one for one in made if one["kind"] == "Deployment")["spec"]["template"]["spec"][
        "initContainers"
    ]
    return dict(container)


def triton() -> dict[str, Any]:
    (container,) = planned()["Deployment"]["spec"]["template"]["spec"]["initContainers"]
    return dict(container)


def options() -> dict[str, Any]:
    """Triton's options as they are in force."""
    program, *arguments = triton()["args"]
    assert program == "tritonserver"
    given = dict(one.removeprefix("--").split("=", 1) for one in arguments)
    assert given.keys() <= DEFAULTS.keys()
    return DEFAULTS | {name: int(value) if name.endswith("-port") else value for name, value in given.items()}


def test_the_example_validates() -> None:
    done = CliRunner().invoke(cli, ["validate", str(TRITON)])
    assert (done.exit_code, done.stdout) == (0, f"{TRITON}: triton is good\n")


def test_it_passes_where_an_installation_forbids_security_contexts(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("podTemplate: {forbidden: [spec.initContainers.securityContext, spec.securityContext]}\n")
    done = CliRunner().invoke(cli, ["validate", str(TRITON), "--policy", str(values)])
    assert done.exit_code == 0, done.output


def test_triton_is_asked_where_it_listens() -> None:
    made, told = planned(), options()
    config = yaml.safe_load(made["ConfigMap"]["data"]["gateway.yaml"])
    assert config["inference"]["url"] == f"http://127.0.0.1:{told['http-port']}"
    container = triton()
    for probe, path in (("startupProbe", "/v2/health/ready"), ("livenessProbe", "/v2/health/live")):
        assert container[probe]["httpGet"] == {"path": path, "port": told["http-port"]}
        assert "exec" not in container[probe]
    assert told["http-address"] == "0.0.0.0"  # the kubelet is not on its localhost
    assert made["Deployment"]["spec"]["template"]["spec"]["containers"][0]["name"] == "gateway"


def test_its_metrics_are_scraped_by_whom_the_policy_lets_in_and_the_model_stays_private() -> None:
    made, told = planned(), options()
    ports = {port["name"]: port["containerPort"] for port in triton()["ports"]}
    assert ports == {"metrics": told["metrics-port"]}
    endpoints = [(one["port"], one["path"]) for one in made["PodMonitor"]["spec"]["podMetricsEndpoints"]]
    assert endpoints == [("operations", "/metrics"), ("metrics", "/metrics")]
    rules = made["NetworkPolicy"]["spec"]["ingress"]
    (scrapers,) = (
        rule["from"] for rule in rules if rule["ports"] == [{"port": told["metrics-port"], "protocol": "TCP"}]
    )
    assert scrapers == rules[1]["from"][1:]  # as the gateway's, but for the operator
    opened = {port["port"] for rule in rules for port in rule["ports"]}
    assert opened.isdisjoint({told["http-port"], told["grpc-port"]})


def test_it_runs_as_its_own_user_with_a_repository_and_shared_memory() -> None:
    spec = planned()["Deployment"]["spec"]["template"]["spec"]
    container = triton()
    assert container["securityContext"] == {**RESTRICTED_CAPABILITIES, "runAsUser": USER}
    assert spec["securityContext"]["runAsNonRoot"] is True
    told = options()
    assert told["model-control-mode"] == "none"
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[told["model-repository"]]["readOnly"] is True
    shared = next(one for one in spec["volumes"] if one["name"] == mounts["/dev/shm"]["name"])
    assert shared["emptyDir"]["medium"] == "Memory"
    assert "env" not in container  # podpair-inference's settings are none of Triton's


@pytest.mark.parametrize(
    "image",
    [
        "nvcr.io/nvidia/tritonserver:25.08-py3", "tritonserver", "registry:5000/a/tritonserver-onnx@sha256:01",
        "seldonio/mlserver:1.7.1-sklearn", "openvino/model_server:latest", "pytorch/torchserve-kfs:0.12.0",
        "kserve/sklearnserver:v0.15.2", "kserve/huggingfaceserver:latest-gpu",
    ],
)  # fmt: skip
def test_servers_are_known_by_their_images_names(image: str) -> None:
    changed = {**OTHER, "inference__image": image}
    del changed["inference__server"]
    assert inference(**changed)["startupProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8081}
    assert "exec" in inference(**changed, inference__server="podpair")["startupProbe"]


@pytest.mark.parametrize("image", ["podpair-inference:0.1.0", "acme/my-tritonserver:3", "mlserver.example/digits:1"])
def test_other_images_are_podpair_s_unless_the_resource_says_otherwise(image: str) -> None:
    container = inference(inference__image=image)
    assert container["startupProbe"]["exec"]["command"][0] == "python3"
    assert "PODPAIR_MODELS__WEIGHTS_FILE" in {one["name"] for one in container["env"]}
    assert "httpGet" in inference(inference__image=image, **OTHER)["startupProbe"]


def test_a_probe_s_own_words_come_first() -> None:
    probes = {"startup": {"httpGet": {"path": "/ready", "port": 9}, "period": "3s"}, "liveness": {"command": ["alive"]}}
    for server in ("podpair", "other"):
        container = inference(**(OTHER | {"inference__server": server}), inference__probes=probes)
        assert container["startupProbe"]["httpGet"] == {"path": "/ready", "port": 9}
        assert container["startupProbe"]["periodSeconds"] == 3
        assert container["livenessProbe"]["exec"] == {"command": ["alive"]}
        assert "httpGet" not in container["livenessProbe"]
    asked = inference(inference__probes={"liveness": {"httpGet": {}}}, inference__port=9000)
    assert asked["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": 9000}


def test_a_metrics_port_that_nobody_is_let_in_to_is_open_to_nobody() -> None:
    around = Dependencies("podpair-gateway:test", "k" * 43)
    changed = {"network": {"networkPolicy": {"operationsFrom": []}}, "inference__metricsPort": 9100}
    made = desired(InferenceGateway.model_validate(resource(**changed)), around)
    (policy,) = (one for one in made if one["kind"] == "NetworkPolicy")
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == {8080, 8083}


def test_what_scales_by_latency_without_autoscaling_is_none_s_business() -> None:
    """A fixed number of pods has nothing that could stand still."""
    fixed = {"min": 2, "max": 2, "metrics": [{"latency": "50ms"}]}
    for changed in (OTHER | {"scaling": fixed}, {"inference__protocol": "grpc", "scaling": fixed}):
        InferenceGateway.model_validate(resource(**changed))
