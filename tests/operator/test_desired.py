"""What a resource becomes, read as the one who has to run it would."""

import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml

from harness.desired_objects import DEPENDENCIES, SASL_AND_TLS, objects, pod
from harness.processes import free_port
from harness.resources import resource
from podpair.operator.controller.applier import _belongs
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.network import operator_namespace_of
from podpair.operator.core.builders.references import missing, references_of
from podpair.operator.core.desired import Dependencies, desired


def test_what_was_applied_of_a_resource_is_known_by_its_name() -> None:
    every = {"monitoring": {"dashboard": True}, "scaling__provider": "keda", **SASL_AND_TLS}
    every["inference__models"] = [{"name": "digits", "versions": [{"version": "3", "weight": 100}]}]
    every["scaling__metrics"] = [{"lag": 5}]
    made = objects(replace(DEPENDENCIES, pod_monitors=True, prometheus_rules=True), **every)
    assert {"Models", "Dashboard", "TriggerAuthentication", "Secret"} <= made.keys()
    assert [one["metadata"]["name"] for one in made.values() if not _belongs(one["metadata"]["name"], "digits")] == []
    assert not _belongs("digits-more", "digits")


def test_probes_and_prometheus_ask_at_the_operators_port_and_clients_find_the_public_one() -> None:
    way_in = {"network": {"ingress": {"host": "d.example"}}}
    made = objects(replace(DEPENDENCIES, pod_monitors=True), **way_in)
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "operations": 8083}
    asked = {probe: container[probe]["httpGet"] for probe in ("readinessProbe", "startupProbe", "livenessProbe")}
    assert asked == {
        "readinessProbe": {"path": "/readyz", "port": "operations"},
        "startupProbe": {"path": "/healthz", "port": "operations"},
        "livenessProbe": {"path": "/healthz", "port": "operations"},
    }
    (endpoint,) = made["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], "scheme" in endpoint) == ("operations", "/metrics", False)
    (port,) = made["Service"]["spec"]["ports"]
    assert port["targetPort"] == "http"
    (rule,) = made["Ingress"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": made["Service"]["metadata"]["name"], "port": {"name": port["name"]}}


def test_the_operators_port_is_for_the_operator_and_prometheus() -> None:
    def ingress(around: Dependencies = DEPENDENCIES, **policy: Any) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = objects(around, network={"networkPolicy": policy})["NetworkPolicy"]["spec"][
            "ingress"
        ]
        return rules

    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "podpair"}}}
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    public, operations = ingress()
    assert public == {"ports": [{"port": 8080, "protocol": "TCP"}]}  # everybody
    assert operations == {"ports": [{"port": 8083, "protocol": "TCP"}], "from": [operator, prometheus]}
    web = {"podSelector": {"matchLabels": {"app": "web"}}}
    assert ingress(**{"from": [web]}) == [{**public, "from": [web]}, operations]  # which opens the other to nobody
    agent = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    assert ingress(operationsFrom=[agent]) == [public, {**operations, "from": [operator, agent]}]
    assert ingress(operationsFrom=[]) == [public, {**operations, "from": [operator]}]
    elsewhere = ingress(replace(DEPENDENCIES, operator_namespace="ops"), operationsFrom=[])[1]["from"]
    assert elsewhere == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}]


def test_plan_finds_the_operators_namespace_in_the_policy_that_is_there() -> None:
    for changed in ({}, {"operationsFrom": []}, {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}):
        live = objects(replace(DEPENDENCIES, operator_namespace="ops"), network={"networkPolicy": changed})[
            "NetworkPolicy"
        ]
        assert operator_namespace_of(live) == "ops"
    rules = [{"ports": [{"port": 8080, "protocol": "TCP"}]}, {}]  # of before, and somebody else's
    assert operator_namespace_of({"spec": {"ingress": rules}}) is None
    assert operator_namespace_of({"spec": {}}) is None


def test_a_renewed_certificate_rolls_no_pods() -> None:
    changed = resource(gateway__tls={"certificateRef": {"name": "public"}}, **SASL_AND_TLS)
    found = {one.name: one for one in references_of(InferenceGateway.model_validate(changed))}
    assert {one.name for one in found.values() if not one.rolls} == {"public"}
    told = missing(found["public"], "default", {"tls.crt"})
    assert told == "Secret default/public has no tls.key (spec.gateway.tls.certificateRef needs it): add the key"


def test_the_model_starts_before_the_gateway_and_ends_after_it() -> None:
    spec = pod()
    (inference,) = spec["initContainers"]
    (gateway,) = spec["containers"]
    assert (inference["name"], inference["restartPolicy"]) == ("inference", "Always")
    assert gateway["image"] == "podpair-gateway:test"
    # 5 s to be forgotten, 30 s of drain, 20 s for the work in hand, 10 s for the model.
    assert spec["terminationGracePeriodSeconds"] == 65
    assert pod(gateway__drain="90s")["terminationGracePeriodSeconds"] == 125
    assert pod(gateway__shutdownTimeout="10m")["terminationGracePeriodSeconds"] == 645
    assert pod(gateway__terminationGracePeriod="5m")["terminationGracePeriodSeconds"] == 300


@pytest.mark.process
@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False), (None, False)])
def test_probes_ask_the_model_inside_its_container(status: int | None, well: bool) -> None:
    asked: list[str] = []

    class Model(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status or 500)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        port = server.server_port if status is not None else free_port()
        (inference,) = pod(inference__port=port)["initContainers"]
        for probe in ("startupProbe", "livenessProbe"):
            command = [sys.executable, *inference[probe]["exec"]["command"][1:]]
            assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) == well
        server.shutdown()
    assert asked == ([] if status is None else ["/v2/health/ready", "/v2/health/live"])


def test_a_change_of_configuration_or_of_a_secret_rolls_the_pods() -> None:
    def annotations(around: Dependencies = DEPENDENCIES, **changed: Any) -> dict[str, str]:
        made = objects(around, **SASL_AND_TLS, **changed)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        assert isinstance(made, dict)
        return made

    def around(**known: str) -> Dependencies:
        return Dependencies(DEPENDENCIES.gateway_image, DEPENDENCIES.resume_key, secrets=known)

    first = annotations()
    assert annotations() == first
    assert annotations(gateway__logLevel="debug")["podpair.dev/config-checksum"] != first["podpair.dev/config-checksum"]
    assert annotations(around(kafka="1"))["podpair.dev/secrets-checksum"] != first["podpair.dev/secrets-checksum"]
    assert annotations(around(kafka="1")) != annotations(around(kafka="2"))
    assert annotations(around(stranger="1")) == first
    assert annotations(Dependencies(DEPENDENCIES.gateway_image, "l" * 43)) != first


def test_every_object_belongs_to_its_resource() -> None:
    made = resource()
    made["metadata"] |= {"uid": "u-1", "namespace": "ml"}
    for one in desired(InferenceGateway.model_validate(made), DEPENDENCIES):
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
            "InferenceGateway",
            "digits",
            "u-1",
            True,
        )
        assert one["metadata"]["namespace"] == "ml"
        assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "podpair-operator"
    assert all("ownerReferences" not in one["metadata"] for one in objects().values())


def test_an_overlay_is_laid_over_the_pods_by_name() -> None:
    over = {
        "metadata": {"labels": {"team": "vision", "podpair.dev/gateway": "stolen"}, "annotations": {"a": "b"}},
        "spec": {
            "nodeSelector": {"gpu": "yes"},
            "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "$patch": "delete"}],
            "initContainers": [{"name": "inference", "securityContext": {"runAsUser": 1000}, "livenessProbe": None}],
            "containers": [
                {"name": "gateway", "env": [{"name": "TZ", "value": "UTC"}]},
                {"name": "proxy", "image": "proxy:1"},
            ],
        },
    }
    template = objects(inference__podTemplate=over)["Deployment"]["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "vision"
    assert template["metadata"]["labels"]["podpair.dev/gateway"] == "digits"
    assert template["metadata"]["annotations"]["a"] == "b"
    spec = template["spec"]
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert [one["topologyKey"] for one in spec["topologySpreadConstraints"]] == ["topology.kubernetes.io/zone"]
    (inference,) = spec["initContainers"]
    assert inference["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsUser": 1000,
    }  # fmt: skip
    assert "livenessProbe" not in inference
    assert "startupProbe" in inference
    gateway, proxy = spec["containers"]
    assert (gateway["name"], gateway["env"]) == ("gateway", [{"name": "TZ", "value": "UTC"}])
    assert gateway["image"] == "podpair-gateway:test"
    assert proxy == {"name": "proxy", "image": "proxy:1"}


def test_only_what_is_wanted_is_made() -> None:
    bare = objects(
        network={"networkPolicy": {"enabled": False}},
        disruptionBudget={"enabled": False},
        topologySpread={"keys": []},
        inference__models=[{"name": "digits"}],
    )
    assert set(bare) == {"ServiceAccount", "Secret", "ConfigMap", "Service", "Deployment", "HorizontalPodAutoscaler"}
    assert "topologySpreadConstraints" not in bare["Deployment"]["spec"]["template"]["spec"]
    watched = Dependencies(DEPENDENCIES.gateway_image, DEPENDENCIES.resume_key, pod_monitors=True)
    assert (
        objects(watched, monitoring={"labels": {"release": "p"}})["PodMonitor"]["metadata"]["labels"]["release"] == "p"
    )
    assert "PodMonitor" not in objects(watched, monitoring={"podMonitor": False})
    assert "PodMonitor" not in objects()


def test_a_route_of_the_gateway_api() -> None:
    network = {"route": {"parentRefs": [{"name": "public", "sectionName": "https"}], "hostnames": ["d.example"]}}
    spec = objects(network=network)["HTTPRoute"]["spec"]
    assert spec["parentRefs"] == [{"name": "public", "sectionName": "https"}]
    assert spec["rules"][0]["backendRefs"] == [{"name": "digits", "port": 80}]
    assert spec["hostnames"] == ["d.example"]


def test_weights_of_versions_reach_the_model_in_a_file_and_roll_no_pod() -> None:
    def made(three: int) -> dict[str, Any]:
        versions = [{"version": "3", "weight": three}, {"version": "2", "weight": 100 - three}]
        return objects(inference__models=[{"name": "digits", "versions": versions}, {"name": "other"}])

    first, second = made(90), made(10)
    assert yaml.safe_load(first["Models"]["data"]["weights.yaml"]) == {"digits": {"3": 90, "2": 10}}
    assert first["Models"] != second["Models"]
    assert first["Deployment"] == second["Deployment"]
    pods = first["Deployment"]["spec"]["template"]["spec"]
    (inference,) = pods["initContainers"]
    (file,) = (one["value"] for one in inference["env"] if one["name"] == "PODPAIR_MODELS__WEIGHTS_FILE")
    (mount,) = inference["volumeMounts"]
    (volume,) = (one for one in pods["volumes"] if one["name"] == mount["name"])
    assert file == f"{mount['mountPath']}/weights.yaml"
    assert volume["configMap"]["name"] == first["Models"]["metadata"]["name"]
