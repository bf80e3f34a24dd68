"""Every object of desired state, at a real API server: it is accepted as it is, and its pods pass `restricted`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness.kubernetes import ApiServer, Refused
from harness.processes import ROOT
from harness.resources import resource
from podpair.operator.cli.main import cli
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.desired import Dependencies, desired

DEPENDENCIES = Dependencies(gateway_image="podpair-gateway:test", resume_key="k" * 43)
TRITON = yaml.safe_load((ROOT / "examples" / "triton" / "inferencegateway.yaml").read_text())["spec"]
RESOURCES: dict[str, dict[str, Any]] = {
    "the example": {},
    "cpu": {"scaling": {"max": 4, "metrics": [{"cpu": 60}]}},
    "another's server": {name: TRITON[name] for name in ("inference", "scaling")},
    "every GPU is in use": {"rollout": {"maxSurge": 0, "maxUnavailable": "50%", "progressDeadline": "90s"}},
    "recreated": {"rollout": {"strategy": "recreate"}},
    "fixed": {"replicas": 3, "disruptionBudget": {"minAvailable": "50%"}},
    "everything": {
        "inference__env": [
            {"name": "A", "value": "1"},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        "inference__volumes": [
            {"name": "models", "mountPath": "/models", "source": {"persistentVolumeClaim": {"claimName": "models"}}},
            {"name": "cache", "mountPath": "/cache", "readOnly": False, "source": {"emptyDir": {"sizeLimit": "1Gi"}}},
        ],
        "inference__resources": {"requests": {"cpu": 2}, "limits": {"nvidia.com/gpu": 1, "memory": "4Gi"}},
        "inference__args": ["serve", "--models", "/models"],
        "inference__imagePullPolicy": "IfNotPresent",
        "inference__imagePullSecrets": [{"name": "registry"}],
        "inference__probes": {"startup": {"command": ["true"], "period": "500ms"}},
        "inference__podTemplate": {
            "metadata": {"annotations": {"a": "b"}},
            "spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}], "priorityClassName": "high"},
        },
        "gateway__auth": {"publicKeyRef": {"name": "jwt", "key": "key.pem"}, "issuer": "i"},
        "kafka__tls": {"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}},
        "kafka__sasl": {"secretName": "kafka"},
        "kafka__consumerGroup": {"staticMembership": True},
        "scaling": {
            "min": 2,
            "max": 12,
            "metrics": [{"cpu": 60}, {"lag": 9}, {"latency": "1500ms"}, {"sessions": 5000}, {"inflight": 32}],
            "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 30}]}},
        },
        "network": {
            "service": {"type": "LoadBalancer", "port": 443, "annotations": {"lb": "internal"}},
            "ingress": {
                "host": "d.example",
                "className": "nginx",
                "tlsSecretName": "d-tls",
                "annotations": {"x": "yes"},
            },
            "networkPolicy": {
                "from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                "operationsFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            },
        },
        "topologySpread": {"keys": ["kubernetes.io/hostname"], "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"},
    },
}


def stored(cluster: ApiServer, namespace: str, changed: dict[str, Any]) -> InferenceGateway:
    """The resource as the API server has it: with its defaults, and its uid."""
    made = resource(**changed)
    made["metadata"]["namespace"] = namespace
    cluster.apply(made)
    return InferenceGateway.model_validate(cluster.read("igw", "digits", "-n", namespace))


@pytest.mark.parametrize("changed", RESOURCES.values(), ids=RESOURCES.keys())
def test_every_object_is_accepted_and_what_is_applied_again_changes_nothing(
    cluster: ApiServer, namespace: str, changed: dict[str, Any]
) -> None:
    objects = desired(stored(cluster, namespace, changed), DEPENDENCIES)
    options = ("--server-side", "--field-manager=podpair-operator")
    # The server tries them, with all admission and validation, and warns of what it would let pass.
    said = cluster.apply(*objects, options=(*options, "--dry-run=server", "--warnings-as-errors"))
    assert said.count("serverside-applied (server dry run)") == len(objects)
    cluster.apply(*objects, options=options)
    versions = [_version(cluster, one) for one in objects]
    cluster.apply(*objects, options=options)
    assert [_version(cluster, one) for one in objects] == versions


@pytest.mark.parametrize("changed", RESOURCES.values(), ids=RESOURCES.keys())
def test_its_pods_pass_the_restricted_pod_security_standard(
    cluster: ApiServer, namespace: str, changed: dict[str, Any]
) -> None:
    template = _template(stored(cluster, namespace, {**changed, "inference__podTemplate": {}}))
    cluster.apply(_pod(template, namespace), options=("--server-side", "--dry-run=server"))


def test_the_namespace_would_refuse_a_pod_that_does_not(cluster: ApiServer, namespace: str) -> None:
    template = _template(stored(cluster, namespace, {}))
    template["spec"]["containers"][0].pop("securityContext")
    with pytest.raises(Refused, match="violates PodSecurity"):
        cluster.apply(_pod(template, namespace), options=("--server-side", "--dry-run=server"))


def test_a_resource_that_is_deleted_owns_all_that_must_go_with_it(cluster: ApiServer, namespace: str) -> None:
    gateway = stored(cluster, namespace, {})
    owners = [owner["uid"] for one in desired(gateway, DEPENDENCIES) for owner in one["metadata"]["ownerReferences"]]
    assert set(owners) == {gateway.metadata.uid}


def test_kubectl_reads_what_plan_prints(cluster: ApiServer, namespace: str, tmp_path: Path) -> None:
    labels = {"a": "y", "b": "1e3", "c": "0o17", "d": "true", "e": "12", "f": "1.5", "g": "a: b"}
    file = tmp_path / "resource.yaml"
    file.write_text(json.dumps(resource(network={"service": {"annotations": labels}})))
    printed = CliRunner().invoke(cli, ["plan", str(file), "-n", namespace]).stdout
    cluster.kubectl("apply", "-f", "-", given=printed)
    annotations = cluster.read("service", "digits", "-n", namespace)["metadata"]["annotations"]
    assert labels.items() <= annotations.items()


def _template(gateway: InferenceGateway) -> dict[str, Any]:
    deployment = next(one for one in desired(gateway, DEPENDENCIES) if one["kind"] == "Deployment")
    template: dict[str, Any] = deployment["spec"]["template"]
    return template


def _pod(template: dict[str, Any], namespace: str) -> dict[str, Any]:
    name = {"name": "tried", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], **name}, "spec": template["spec"]}


def _version(cluster: ApiServer, one: dict[str, Any]) -> str:
    found = cluster.read(one["kind"], one["metadata"]["name"], "-n", one["metadata"]["namespace"])
    return str(found["metadata"]["resourceVersion"])
