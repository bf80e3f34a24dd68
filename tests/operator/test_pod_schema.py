"""What `podpair validate` finds in pods before an API server does: by Kubernetes' own schema, in the pod that comes of it all."""

from typing import Any

import pytest
import yaml

from harness.resources import resource
from podpair.operator.cli.files import offline_faults
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.pods import pod_template
from podpair.operator.core.manifest_loader import load_manifests
from podpair.operator.kube.pod_schema import pod_faults


def faults(**changed: Any) -> list[str]:
    text = yaml.safe_dump(resource(**changed))
    return [f"{fault.field}: {fault.message}" for fault in load_manifests(text, check=pod_faults).faults]


def in_overlay(spec: dict[str, Any]) -> list[str]:
    return faults(inference__podTemplate={"spec": spec})


def container(**fields: Any) -> dict[str, Any]:
    return {"initContainers": [{"name": "inference", **fields}]}


HERE = "spec.inference.podTemplate.spec"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt field": ({"nodeSelectr": {}}, f"{HERE}.nodeSelectr: there is no such field; did you mean nodeSelector?"),
    "Python's name of a field": ({"node_selector": {}}, f"{HERE}.node_selector: there is no such field; did you mean"),
    "a misspelt field in a list": (
        container(env=[{"name": "A", "valueFrom": {"secretRef": {"name": "x"}}}]),
        f"{HERE}.initContainers[0].env[0].valueFrom.secretRef: there is no such field; did you mean secretKeyRef?",
    ),
    "a number for text": ({"nodeSelector": {"rack": 7}}, f"{HERE}.nodeSelector.rack: 7 should be text: write it in quotes"),
    "text for a number": ({"priority": "high"}, f"{HERE}.priority: 'high' should be a whole number"),
    "text for a switch": ({"hostNetwork": "yes"}, f"{HERE}.hostNetwork: 'yes' should be true or false"),
    "one thing for a list": ({"tolerations": {"key": "gpu"}}, f"{HERE}.tolerations: {{'key': 'gpu'}} should be a list"),
    "no quantity": (container(resources={"limits": {"memory": "1Gb"}}), "limits.memory: '1Gb' is not a quantity such as"),
    "what is missing": (
        {"topologySpreadConstraints": [{"topologyKey": "zone"}]}, f"{HERE}.topologySpreadConstraints[0]: ",
    ),
    "two volumes at one place": (
        {"containers": [{"name": "gateway", "volumeMounts": [{"name": one, "mountPath": "/x"} for one in "ab"]}],
         "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}]},
        f"{HERE}.containers[0].volumeMounts[1]: another one has the same mountPath /x",
    ),
    "two variables of one name": (
        container(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        f"{HERE}.initContainers[0].env[1]: another one has the same name A",
    ),
    "one port twice": (
        container(ports=[{"containerPort": 53}, {"containerPort": 53, "protocol": "TCP"}]),
        f"{HERE}.initContainers[0].ports[1]: another one has the same containerPort 53 and protocol TCP",
    ),
    "the model's container in the wrong list": (
        {"containers": [{"name": "inference", "env": []}]},
        f"{HERE}.containers[0]: container inference has no image: inference stands in initContainers, lay over it there",
    ),
    "the gateway's container in the wrong list": (
        {"initContainers": [{"name": "gateway"}]},
        f"{HERE}.initContainers[0]: container gateway has no image: gateway stands in containers, lay over it there",
    ),
    "two containers of one name": (
        {"containers": [{"name": "inference", "image": "x"}]}, f"{HERE}.containers[0]: another container is named inference",
    ),
    "a volume that there is not": (
        container(volumeMounts=[{"name": "none", "mountPath": "/x"}]),
        f"{HERE}.initContainers[0].volumeMounts[0]: there is no volume none",
    ),
    "too short a time to stop": (
        {"terminationGracePeriodSeconds": 10},
        "spec: inference.podTemplate.spec.terminationGracePeriodSeconds is less than gateway.drain (30s), gateway.",
    ),
    "pods that end": ({"restartPolicy": "Never"}, f"{HERE}.restartPolicy: pods of a Deployment are always restarted"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_an_overlay_is_told_where_it_stands(name: str) -> None:
    spec, said = WRONG[name]
    told = in_overlay(spec)
    assert any(said in one for one in told), told


def test_labels_are_text() -> None:
    (told,) = faults(inference__podTemplate={"metadata": {"labels": {"tier": 1}}})
    assert told == 'spec.inference.podTemplate.metadata.labels.tier: 1 should be text: write it in quotes, "…"'


def test_what_comes_through_other_fields_is_judged_too() -> None:
    volume = {"name": "w", "mountPath": "/w", "source": {"persistentVolumeClaim": {"claim": "x"}}}
    told = faults(inference__volumes=[volume])
    assert (
        "spec.inference.volumes: the pod's spec.volumes[w].persistentVolumeClaim.claim: there is no such field"
        in told[0]
    )


def test_a_line_is_told() -> None:
    text = yaml.safe_dump(resource(inference__podTemplate={"spec": {"nodeSelectr": {}}}), sort_keys=False)
    (fault,) = load_manifests(text, check=pod_faults).faults
    assert "nodeSelectr" in text.splitlines()[fault.line - 1]


def test_a_field_of_the_pod_is_told_where_it_belongs() -> None:
    for field in ("inference__nodeSelector", "inference__tolerations", "gateway__runtimeClassName", "affinity"):
        (told,) = faults(**{field: {}})
        name = field.rpartition("__")[2]
        assert told.endswith(f"there is no such field: it is the pod's, spec.inference.podTemplate.spec.{name}")


RIGHT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "where it runs": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "high"},
    "quantities as numbers": container(resources={"limits": {"cpu": 0.5, "memory": 1_000_000}}),
    "quantities of all forms": container(resources={"limits": {"cpu": "100u", "memory": "1e9", "a/b": ".5"}}),
    "a port by name or number": container(readinessProbe={"httpGet": {"path": "/", "port": "x"}}),
    "two ports by protocol": container(ports=[{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}]),
    "another container": {"containers": [{"name": "proxy", "image": "envoy"}]},
    "something removed": {"automountServiceAccountToken": None, "volumes": [{"name": "podpair-tmp", "$patch": "delete"}],
                          "containers": [{"name": "gateway", "volumeMounts": [{"mountPath": "/tmp", "$patch": "delete"}]}]},
    "a longer time to stop": {"terminationGracePeriodSeconds": 3600},
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    assert in_overlay(RIGHT[name]) == []


def test_items_are_told_apart_as_the_api_server_does() -> None:
    spread = [
        {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": one} for one in ("DoNotSchedule", "ScheduleAnyway")
    ]
    ports = [{"containerPort": 5353, "protocol": one} for one in ("TCP", "UDP")]
    over = {"topologySpreadConstraints": spread, "containers": [{"name": "gateway", "ports": ports}]}
    made = InferenceGateway.model_validate(resource(inference__podTemplate={"spec": over}))
    spec = pod_template(made, "image", {})["spec"]
    assert [one for one in spec["topologySpreadConstraints"] if one["topologyKey"] == "zone"] == spread
    assert [one for one in spec["containers"][0]["ports"] if one["containerPort"] == 5353] == ports


def test_a_variable_of_the_user_comes_over_the_operators() -> None:
    mine = {"name": "PODPAIR_REQUESTS__GROUP_INSTANCE_ID", "value": "mine"}
    model = {"name": "PODPAIR_SERVER__PORT", "value": "9000"}
    made = InferenceGateway.model_validate(
        resource(gateway__env=[mine], inference__env=[model], kafka__consumerGroup={"staticMembership": True})
    )
    spec = pod_template(made, "image", {})["spec"]
    for one, variable in ((spec["containers"][0], mine), (spec["initContainers"][0], model)):
        assert [found for found in one["env"] if found["name"] == variable["name"]] == [variable]
    assert faults(gateway__env=[mine], kafka__consumerGroup={"staticMembership": True}) == []


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"linger.msec": "5"}, 'spec.kafka.client.linger.msec: No such configuration property: "linger.msec"'),
        (
            {"LINGER_MS": "soon"},
            'spec.kafka.client.LINGER_MS: Invalid value for configuration property "queue.buffering.max.ms"',
        ),
        ({"socket.timeout.ms": "1"}, "value 1 is outside allowed range"),
        ({"security.protocol": "TLS"}, 'Invalid value "TLS" for configuration property "security.protocol"'),
    ],
)
def test_a_property_that_librdkafka_refuses(client: dict[str, str], said: str) -> None:
    (fault,) = load_manifests(yaml.safe_dump(resource(kafka__client=client)), check=offline_faults).faults
    assert said in f"{fault.field}: {fault.message}"


def test_properties_of_files_and_of_consumers_are_good() -> None:
    client = {
        "ssl.ca.location": "/not/here", "fetch.wait.max.ms": "5", "sasl.mechanism": "GSSAPI",
        "plugin.library.paths": "none", "sasl.username": "me",
    }  # fmt: skip
    assert load_manifests(yaml.safe_dump(resource(kafka__client=client)), check=offline_faults).faults == []


def test_networks_that_are_left_out_lie_within_the_one_that_is_meant() -> None:
    blocks = [
        {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16", "10.0.0.0/8"]},
        {"cidr": "::/0", "except": ["fd00::/8"]},
    ]
    policy = {
        "from": [{"ipBlock": block} for block in blocks],
        "operationsFrom": [{"ipBlock": {"cidr": "::/1", "except": ["1.0.0.0/8"]}}],
    }
    told = load_manifests(yaml.safe_dump(resource(network={"networkPolicy": policy})), check=offline_faults).faults
    assert [f"{fault.field}: {fault.message}" for fault in told] == [
        "spec.network.networkPolicy.from[0].ipBlock.except[1]: 11.0.0.0/16 doesn't lie within 10.0.0.0/8, or is all of it",
        "spec.network.networkPolicy.from[0].ipBlock.except[2]: 10.0.0.0/8 doesn't lie within 10.0.0.0/8, or is all of it",
        "spec.network.networkPolicy.operationsFrom[0].ipBlock.except[0]: 1.0.0.0/8 doesn't lie within ::/1, or is all of it",
    ]
