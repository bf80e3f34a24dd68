"""What autoscalers read: CPU of containers that all request some, and metrics of the pods, however long their names."""

import re
from typing import Any

import pytest
import yaml

from harness.resources import resource
from podpair.operator.cli.files import offline_faults
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.pods import pod_template
from podpair.operator.core.conditions import Observed, status
from podpair.operator.core.desired import Dependencies, desired
from podpair.operator.core.manifest_loader import load_manifests

BY_CPU = {"min": 1, "max": 4, "metrics": [{"cpu": 60}]}
HASHES = ("6d4cf56db6", "7c9f4b8d5", "5f7b9c44")  # ten characters at most


def read_as(**changed: Any) -> InferenceGateway:
    return InferenceGateway.model_validate(resource(**changed))


def resources(**changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the inference container and the gateway request."""
    spec = pod_template(read_as(**changed), "image", {})["spec"]
    return spec["initContainers"][0]["resources"], spec["containers"][0]["resources"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {"requests": {"cpu": "500m", "memory": "512Mi"}}),
        ({"limits": {"cpu": "100m"}}, {"requests": {"memory": "512Mi"}, "limits": {"cpu": "100m"}}),
        ({"limits": {"cpu": 1, "memory": "64Mi"}}, {"limits": {"cpu": "1", "memory": "64Mi"}}),
        (
            {"limits": {"nvidia.com/gpu": 1}},
            {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"nvidia.com/gpu": "1"}},
        ),
        ({"requests": {"memory": "1Gi"}}, {"requests": {"memory": "1Gi"}}),
        ({"requests": {}}, {}),
    ],
)
def test_a_limit_alone_is_the_request(given: dict[str, Any], made: dict[str, Any]) -> None:
    assert resources(inference__resources=given)[0] == made


def test_nor_does_the_gateway_request_more_than_its_limits() -> None:
    assert resources(gateway__resources={"limits": {"memory": "128Mi"}})[1] == {
        "requests": {"cpu": "250m"},
        "limits": {"memory": "128Mi"},
    }


def with_container(kind: str = "containers", **container: Any) -> dict[str, Any]:
    return {"inference__podTemplate": {"spec": {kind: [{"name": "proxy", "image": "envoy", **container}]}}}


@pytest.mark.parametrize(
    ("changed", "without"),
    [
        (with_container(), True),
        (with_container(resources={"requests": {"memory": "1Gi"}}), True),
        (with_container(resources={"requests": {"cpu": 0}}), True),
        (with_container(resources={"requests": {"cpu": "0.0m"}, "limits": {"cpu": 1}}), True),
        (with_container("initContainers", restartPolicy="Always"), True),
        (with_container("initContainers"), False),
        (with_container(resources={"requests": {"cpu": "10m"}}), False),
        (with_container(resources={"limits": {"cpu": 0.1}}), False),
        ({}, False),
    ],
    ids=str,
)
def test_a_container_that_requests_no_cpu_is_told(changed: dict[str, Any], without: bool) -> None:
    told = [
        fault.message
        for fault in load_manifests(yaml.safe_dump(resource(scaling=BY_CPU, **changed)), check=offline_faults).faults
    ]
    seen = status(read_as(scaling=BY_CPU, **changed), Observed(), {}, "2026-01-01T00:00:00Z")
    (scaling,) = (one for one in seen["conditions"] if one["type"] == "Scaling")
    if without:
        assert told == [
            "container proxy requests no CPU, which scaling by cpu is measured against: set its resources.requests.cpu,"
            " or scale by another metric"
        ]
        assert (scaling["status"], scaling["reason"]) == ("False", "MissingCPURequest")
        assert "proxy of inference.podTemplate requests no CPU" in scaling["message"]
    else:
        assert told == []
        assert scaling["reason"] == "NotScaledYet"


@pytest.mark.parametrize(
    "changed", [{"scaling": {"metrics": [{"lag": 5}]}}, {"scaling": {**BY_CPU, "max": 1}}, {"replicas": 3}]
)
def test_where_nothing_is_scaled_by_cpu_none_is_needed(changed: dict[str, Any]) -> None:
    text = yaml.safe_dump(resource(**{**with_container(), "gateway__resources": {"requests": {}}, **changed}))
    assert load_manifests(text, check=offline_faults).faults == []


def test_an_overlay_that_is_no_pod_harms_nobody() -> None:
    for spec in ({"containers": "proxy"}, {"initContainers": {"a": 1}}, {"containers": ["proxy"]}, {"resources": 5}):
        told = status(
            read_as(scaling=BY_CPU, inference__podTemplate={"spec": spec}), Observed(), {}, "2026-01-01T00:00:00Z"
        )
        assert told["conditions"]


def test_what_ended_scaling_says_how_to_have_it_back() -> None:
    scaling = {"min": 2, "max": 9, "metrics": [{"lag": 5}]}
    told = status(read_as(replicas=3, scaling=scaling), Observed(), {}, "2026-01-01T00:00:00Z")
    (condition,) = (one for one in told["conditions"] if one["type"] == "Scaling")
    assert (condition["status"], condition["reason"]) == ("True", "Fixed")
    assert condition["message"] == (
        "spec.replicas (kubectl scale sets it) fixes the number of pods at 3, and nothing scales them; for 2 to 9 pods again"
        """ take it out: kubectl patch igw digits --type=merge -p '{"spec":{"replicas":null}}'"""
    )
    same = status(read_as(scaling={**scaling, "max": 2}), Observed(), {}, "2026-01-01T00:00:00Z")
    (condition,) = (one for one in same["conditions"] if one["type"] == "Scaling")
    assert condition["message"] == "the number of pods is fixed at 2: scaling.min and scaling.max are the same"


def pod_name(name: str, digest: str, letters: str = "x7k2p") -> str:
    """As Kubernetes makes it: what is too long is cut off before the random letters (apiserver's names.SimpleNameGenerator)."""
    return f"{name}-{digest}-"[: 63 - len(letters)] + letters


def matcher(name: str) -> re.Pattern[str]:
    scaling = {"max": 9, "provider": "keda", "prometheusUrl": "http://p:9090", "metrics": [{"sessions": 10}]}
    made = desired(read_as(name=name, scaling=scaling), Dependencies("image", "k" * 43))
    (scaled,) = (one for one in made if one["kind"] == "ScaledObject")
    (pattern,) = re.findall(r'pod=~"([^"]*)"', scaled["spec"]["triggers"][0]["metadata"]["query"])
    return re.compile(pattern)


@pytest.mark.parametrize("length", range(1, 53))
def test_keda_s_query_finds_the_pods_of_a_name_of_any_length(length: int) -> None:
    pattern = matcher("n" * length)
    for digest in HASHES:
        name = pod_name("n" * length, digest)
        assert len(name) <= 63
        assert pattern.fullmatch(name), name


def test_it_finds_no_others() -> None:
    for name in ("digits", "d" * 44, "d" * 47, "d" * 49):
        for other in (f"{name}-b", f"{name}b", f"{name}-b2", name[:-1]):
            for digest in HASHES:
                found = pod_name(other, digest)
                assert len(other) > 52 or not matcher(name).fullmatch(found), (name, found)
