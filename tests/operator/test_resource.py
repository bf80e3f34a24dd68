"""What a resource must look like, and what each mistake in one is told, without a cluster."""

import pytest
import yaml

from harness.resources import EXAMPLE, REMOVED, WRONG, Wrong, resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.manifest_loader import Fault, load_manifests


def told(text: str) -> list[str]:
    return [str(fault) for fault in load_manifests(text).faults]


def test_ten_lines_are_enough_and_everything_else_has_a_default() -> None:
    text = EXAMPLE.read_text()
    lines = [line for line in text.partition("spec:\n")[2].splitlines() if line.strip()]
    assert len(lines) <= 10
    (digits,) = load_manifests(text).resources
    spec = digits.spec
    assert (spec.scaling.min, spec.scaling.max, spec.scaling.provider) == (2, 10, "hpa")
    assert [(m.lag, m.latency) for m in spec.scaling.metrics] == [(100, None), (None, "50ms")]
    assert (spec.kafka.requests.partitions, spec.kafka.results.partitions) == (16, 16)
    assert spec.kafka.deletion_policy == "Retain"
    assert digits.metadata.namespace == "default"


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_broken_rule_is_told_where_it_is_and_with_its_values(wrong: Wrong) -> None:
    (fault,) = load_manifests(yaml.safe_dump(resource(**wrong.changed))).faults
    assert wrong.words in fault.message
    assert fault.field == wrong.field


def test_all_faults_come_at_once_with_their_lines() -> None:
    text = """\
apiVersion: podpair.dev/v1alpha1
kind: InferenceGateway
metadata: {name: digits}
spec:
  inference:
    image: registry.example/digits:3
    modles: []
    port: high
    env:
      - {name: A, value: 1}
      - {name: A, value: "2"}
  gateway:
    auth: {}
    drain: 20
    drain: soon
  kafka: {}
  scaling: {min: 5, max: 2, provider: knative}
"""
    assert told(text) == [
        "line 7: spec.inference.modles: there is no such field; did you mean models?",
        "line 8: spec.inference.port: 'high' is not a whole number",
        'line 10: spec.inference.env[0].value: 1 is not text: write it in quotes, "…"',
        "line 13: spec.gateway.auth: exactly one of jwksUrl, secretRef, publicKeyRef must be set"
        " (or disabled: true, for development)",
        "line 15: spec.gateway.drain: 'soon' is not a duration such as 0s, 20s, 5m or 1h30m",
        "line 15: spec.gateway.drain: is there twice",
        "line 16: spec.kafka.bootstrapServers: is required",
        "line 17: spec.scaling.provider: 'knative' is not 'hpa' or 'keda'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: there is no InferenceGateway (podpair.dev/v1alpha1) in here"),
        ("kind: Secret\n", "line 1: there is no InferenceGateway (podpair.dev/v1alpha1) in here"),
        ("a: [", "line 1: not YAML: expected the node content, but found '<stream end>'"),
        ("a: \x00", "line 1: not YAML: "),
        ("a: 2026-13-45", "line 1: not YAML: "),
        ("kind: InferenceGateway\nspec: 5\n", "line 2: spec: fields by name are needed here"),
        ("kind: InferenceGateway\napiVersion: v1\n", "line 2: apiVersion: 'v1' is not 'podpair.dev/v1alpha1'"),
        ("kind: InferenceGateway\nspec: &a {inference: *a}\n", "line 2: spec.inference.image: is required"),
        ("kind: InferenceGateway\nspec: &a [*a]\n", "line 2: spec: fields by name are needed here"),
        ("kind: InferenceGateway\n1: 2\n", "line 2: [1]: Keys should be strings"),
        ("kind: InferenceGateway\n? [a]\n: b\n", "line 2: not YAML: found unhashable key"),
        ("kind: InferenceGateway\nspec: !!python/object:os.system {}\n", "line 2: not YAML: could not determine"),
        ("a: *b", "line 1: not YAML: found undefined alias"),
        ("[" * 3000, "line 1: nested too deep"),
        ("- 1", "line 1: there is no InferenceGateway"),
        ("kind: InferenceGateway\nmetadata: {}\n", "line 2: metadata.name: is required"),
    ],
)
def test_a_file_that_holds_no_resource(text: str, said: str) -> None:
    assert any(line.startswith(said) for line in told(text)), told(text)


def test_several_documents_each_counted_from_the_top_of_the_file() -> None:
    good, wrong = EXAMPLE.read_text(), yaml.safe_dump(resource(gateway=REMOVED))
    contents = load_manifests(f"kind: Secret\n---\n{good}---\n{good}")
    assert [one.metadata.name for one in contents.resources] == ["digits", "digits"]
    assert load_manifests(f"{good}---\n{wrong}").faults == [Fault(good.count("\n") + 6, "spec.gateway", "is required")]


def test_names_twice_in_a_list_that_is_merged_by_name() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    (fault,) = load_manifests(yaml.safe_dump(resource(inference__env=env))).faults
    assert (fault.field, fault.message) == ("spec.inference.env", "name 'A' is there twice")


def test_quantities_may_be_numbers_and_are_read_as_text() -> None:
    made = resource(inference__resources={"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}})
    resources = InferenceGateway.model_validate(made).spec.inference.resources
    assert (resources.requests, resources.limits) == ({"cpu": "2", "memory": "1Gi"}, {"nvidia.com/gpu": "1"})


@pytest.mark.parametrize(("text", "value"), [("50ms", 0.05), ("1m30s", 90), ("0s", 0)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)
