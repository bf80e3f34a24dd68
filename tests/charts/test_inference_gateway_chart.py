"""inference-gateway: values become one resource, which the API server takes, and the Secrets that it names."""

import base64
import copy
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from charts.conftest import Install
from charts.test_values import DIGITS
from harness.helm import CHARTS, Failed, Helm
from harness.kubernetes import ApiServer, Refused
from harness.resources import EXAMPLE
from podpair.operator.cli.main import cli
from podpair.operator.core.policy import LABEL

CHART = CHARTS / "inference-gateway"
NAME = "inferencegateways.podpair.dev"
SASL = {"kafka": {"username": "digits", "password": "swordfish"}}


def values(**changed: Any) -> dict[str, Any]:
    """The digits example; `kafka__tls={}` changes kafka.tls, None takes a value away."""
    made: dict[str, Any] = copy.deepcopy(DIGITS)
    for path, value in changed.items():
        *sections, last = path.split("__")
        below = made
        for section in sections:
            below = below.setdefault(section, {})
        if value is None:
            below.pop(last, None)
        else:
            below[last] = value
    return made


def made(helm: Helm, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """The resource, and the Secrets' contents by name."""
    objects = helm.template("inference-gateway", values=given)
    (resource,) = (one for one in objects if one["kind"] == "InferenceGateway")
    secrets = {
        one["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
        for one in objects
        if one["kind"] == "Secret"
    }
    return resource, secrets


def test_values_become_the_resource_that_one_would_write(helm: Helm) -> None:
    spec = yaml.safe_load(EXAMPLE.read_text())["spec"]
    resource, secrets = made(helm, {**spec, "replicas": 0, "name": "digits", "labels": {"team": "ml"}})
    assert resource["spec"] == {**spec, "replicas": 0}
    assert secrets == {}
    assert (resource["metadata"]["name"], resource["metadata"]["labels"]["team"]) == ("digits", "ml")


def test_secrets_are_made_and_named(helm: Helm) -> None:
    sasl = {"mechanism": "SCRAM-SHA-256", "usernameKey": "user"}
    resource, secrets = made(
        helm, values(secrets__kafka=SASL["kafka"], kafka__sasl=sasl, gateway={"auth": {"issuer": "me"}})
    )
    assert resource["spec"]["kafka"]["sasl"] == {**sasl, "secretName": "podpair-kafka"}
    assert resource["spec"]["gateway"]["auth"] == {
        "issuer": "me",
        "secretRef": {"name": "podpair-auth", "key": "secret"},
    }
    assert secrets == {
        "podpair-auth": {"secret": DIGITS["secrets"]["auth"]["secret"]},
        "podpair-kafka": {"user": "digits", "password": "swordfish"},
    }
    shown = helm.template("inference-gateway", values=values(secrets__kafka=SASL["kafka"]))
    labels = {one["metadata"]["name"]: one["metadata"]["labels"] for one in shown if one["kind"] == "Secret"}
    assert labels["podpair-kafka"][LABEL] == "true"
    assert LABEL not in labels["podpair-auth"]
    key = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
    resource, secrets = made(helm, values(secrets={"auth": {"publicKey": key}}))
    assert resource["spec"]["gateway"]["auth"] == {"publicKeyRef": {"name": "podpair-auth", "key": "public-key"}}
    assert secrets == {"podpair-auth": {"public-key": key}}


def test_podpair_finds_the_resource_good(helm: Helm) -> None:
    rendered = helm("template", "digits", CHART, values=values(secrets__kafka=SASL["kafka"], kafka__tls={}))
    (resource,) = [one for one in yaml.safe_load_all(rendered) if one["kind"] == "InferenceGateway"]
    said = CliRunner().invoke(cli, ["validate", "-"], input=yaml.safe_dump(resource))
    assert said.exit_code == 0, said.output


def test_it_installs_upgrades_and_goes(
    cluster: ApiServer, release: Install, helm: Helm, helm_at: Helm, namespace: str, tmp_path: Any
) -> None:
    helm("package", CHART, "--version", "0.0.1", "--destination", tmp_path)
    helm_at("install", "podpair-crds", CHARTS / "podpair-crds", "--namespace", namespace)
    cluster.await_kind(NAME)
    release("install", tmp_path / "inference-gateway-0.0.1.tgz", values=DIGITS)
    first = cluster.read("igw", "podpair", "-n", namespace)
    release("upgrade", CHART, "--reuse-values", "--set", "scaling.max=9")
    second = cluster.read("igw", "podpair", "-n", namespace)
    assert (first["spec"]["scaling"]["max"], second["spec"]["scaling"]["max"]) == (4, 9)
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
    with pytest.raises(Failed, match=r"kafka.requests.partitions \(16\) is less than scaling.max \(17\)"):
        release("upgrade", CHART, "--reuse-values", "--set", "scaling.max=17")
    (test,) = [one for one in helm.template("inference-gateway", values=DIGITS) if one["kind"] == "Pod"]
    cluster.apply({**test, "metadata": {"name": "restricted", "namespace": namespace}})
    helm_at("uninstall", "podpair", "--namespace", namespace)
    with pytest.raises(Refused, match="NotFound"):
        cluster.read("igw", "podpair", "-n", namespace)
    with pytest.raises(Refused, match="NotFound"):
        cluster.read("secret", "podpair-auth", "-n", namespace)
    helm_at("uninstall", "podpair-crds", "--namespace", namespace)
    assert cluster.read("crd", NAME)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no image": (values(inference={}), "at '/inference': missing property 'image'"),
    "no broker": (values(kafka={}), "at '/kafka': missing property 'bootstrapServers'"),
    "no auth": (values(secrets=None), "how are clients' tokens verified? Set secrets.auth.secret"),
    "a short secret": (values(secrets__auth__secret="short"), "at '/secrets/auth/secret'"),
    "two keys": (
        values(secrets__auth__publicKey="-----BEGIN PUBLIC KEY-----"),
        "secrets.auth.secret and secrets.auth.publicKey are both set",
    ),
    "a user without a password": (
        values(secrets__kafka={"username": "digits"}),
        "secrets.kafka.username and secrets.kafka.password are set together",
    ),
    "two passwords": (
        values(secrets__kafka=SASL["kafka"], kafka__sasl={"secretName": "mine"}),
        "kafka.sasl.secretName and secrets.kafka are both set",
    ),
    "sasl without a password": (
        values(kafka__sasl={"mechanism": "PLAIN"}),
        "kafka.sasl needs secretName, or secrets.kafka.username",
    ),
    "a field that isn't": (values(scaling__maximum=3), "at '/scaling': additional properties 'maximum' not allowed"),
    "a field deep down that isn't": (
        values(inference__probes={"startup": {"periodSeconds": 3}}),
        "at '/inference/probes/startup': additional properties 'periodSeconds' not allowed",
    ),
    "a duration": (values(gateway__drain="30"), "at '/gateway/drain': '30' does not match pattern"),
    "a broker without a port": (
        values(kafka__bootstrapServers="kafka"),
        "at '/kafka/bootstrapServers': 'kafka' does not match pattern",
    ),
    "a number as text": (values(scaling__min="2"), "at '/scaling/min': got string, want integer"),
    "an unknown provider": (
        values(scaling__provider="vpa"),
        "at '/scaling/provider': value must be one of 'hpa', 'keda'",
    ),
    "too long a name": (values(name="d" * 53), "at '/name': maxLength: got 53, want 52"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_told(helm: Helm, wrong: tuple[dict[str, Any], str]) -> None:
    given, words = wrong
    with pytest.raises(Failed) as failed:
        helm.template("inference-gateway", values=given)
    assert words in str(failed.value)
