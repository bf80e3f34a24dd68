"""What the gateway would refuse of a resource is a fault of the resource, reported by field, and nothing of it is applied."""

from pathlib import Path
from typing import Any, get_args
from unittest.mock import AsyncMock, Mock

import pytest
import yaml
from pydantic import BaseModel

from harness.desired_objects import SASL_AND_TLS
from harness.generated_resources import generated
from harness.resources import resource
from harness.verdicts import disagreements, verdict
from podpair.common.gateway_config.model import Config
from podpair.gateway.config.load import load
from podpair.operator.cli.files import offline_faults
from podpair.operator.controller.dependencies import Cluster
from podpair.operator.controller.gateway_store import GatewayStore
from podpair.operator.controller.reconciler import Reconciler, Reporting
from podpair.operator.core.api.igw import InferenceGateway, Spec
from podpair.operator.core.builders.gateway_config import config_map, gateway_config
from podpair.operator.core.config_faults import FIELDS, config_faults
from podpair.operator.core.manifest_loader import load_manifests, path_of
from podpair.operator.kube.client import Client

GOOD = InferenceGateway.model_validate(resource(gateway__admission={"rules": [{}, {"claim": "tenant"}]}))
GENERATED = [found for number in range(150) if (found := verdict(generated(number)).gateway) is not None]
# What no field decides, or the field of its section does.
FIXED = {
    "http.host", "http.port", "operations.port", "sessions.resume_secret_file", "kafka.create_topics", "kafka.await_topics",
    "inference.url", "console.enabled", "log.level", "tracing.service", "workflows.enabled", "deliveries.enabled",
    "channels.enabled", "presence.enabled", "presence.heartbeat_seconds",
}  # fmt: skip


def spoilt(gateway: InferenceGateway, path: str, value: Any) -> InferenceGateway:
    """The resource with a value that no rule has looked at."""

    def put(section: BaseModel, names: list[str]) -> BaseModel:
        name, *below = names
        return section.model_copy(update={name: put(getattr(section, name), below) if below else value})

    made = put(gateway, path.split("."))
    assert isinstance(made, InferenceGateway)
    return made


@pytest.mark.parametrize(
    ("path", "value", "field", "why"),
    [
        ("gateway.origins", ("https://a/b",), "gateway.origins", "http.origins): 'https://a/b' is not an origin"),
        ("gateway.limits.max_attempts", 0, "gateway.limits.maxAttempts", "requests.max_attempts): Input should be"),
        ("kafka.client", {"ACKS": "1"}, "kafka.client", "kafka.client): acks is podpair's own to set"),
        ("kafka.requests.name", "a b", "kafka.requests.name", "requests.topic): String should match pattern"),
        ("kafka.results.name", "default.digits.requests", "", "configuration): requests.topic and results.topic are"),
        ("inference.timeout", "0s", "inference.timeout", "inference.timeout_seconds): Input should be greater"),
        ("inference.port", 10**6, "inference", "inference.url): 'http://127.0.0.1:1000000': Port out of range"),
    ],
)
def test_the_field_is_named_and_what_the_gateway_says_of_it(path: str, value: Any, field: str, why: str) -> None:
    ((place, message),) = config_faults(spoilt(GOOD, f"spec.{path}", value))
    assert path_of(place) == f"spec.{field}".rstrip(".")
    assert message.startswith(f"the gateway would refuse it ({why}")


def test_all_faults_are_found_at_once_and_a_rule_by_its_number() -> None:
    first, second = GOOD.spec.gateway.admission.rules
    rules = (first, second.model_copy(update={"requests_per_second": -1}))
    bad = spoilt(spoilt(GOOD, "spec.gateway.admission.rules", rules), "spec.gateway.sessions.max", 0)
    found = [path_of(place) for place, _ in config_faults(bad)]
    assert found == ["spec.gateway.sessions.max", "spec.gateway.admission.rules[1].requestsPerSecond"]


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({"PODPAIR_LIMITS__SESSIONS": "0"}, {"env[0]": "(limits.sessions): Input should be greater than 0"}),
        ({"A": "b", "PODPAIR_LIMITS__SESION": "5"}, {"env[1]": "(limits.sesion): there is no such setting; did you mean"}),
        ({"PODPAIR_SESSION__IDLE_SECONDS": "5"}, {"env[0]": ": there is no section 'session'; did you mean 'sessions'?"}),
        ({"PODPAIR_KAFKA__CLIENT__ACKS": "1"}, {"env[0]": "(kafka.client): acks is podpair's own to set"}),
        ({"PODPAIR_HTTP": '{"port": "x"}'}, {"env[0]": "(http.port): Input should be a valid integer"}),
        ({"PODPAIR_RESULTS__TOPIC": "default.digits.requests"}, {"env[0]": "(configuration): requests.topic and results"}),
        ({"PODPAIR_LOG__LEVEL": None}, {"env[0]": "(log.level): Input should be 'debug', 'info'"}),
        ({"PODPAIR_LIMITS__SESSIONS": "0", "PODPAIR_LOG__LEVEL": "loud"}, {
            "env[0]": "(limits.sessions): Input should", "env[1]": "(log.level): Input should",
        }),
        ({"PODPAIR_REQUESTS__TOPIC": "a", "PODPAIR_RESULTS__TOPIC": "a"}, {"env": "(configuration): requests.topic and"}),
        ({"PODPAIR_LIMITS__SESSIONS": "9", "PODPAIR_KAFKA__CLIENT__LINGER_MS": "5", "PODPAIR_HOST": "x"}, {}),
        ({"PODPAIR_LIMITS__SESSIONS": "$(MANY)", "MANY": "0"}, {}),
        ({"PODPAIR_LIMITS__SESSIONS": {"configMapKeyRef": {"name": "limits", "key": "sessions"}}}, {}),
        # The other topic may be another one there.
        ({"PODPAIR_RESULTS__TOPIC": "default.digits.requests", "PODPAIR_REQUESTS__TOPIC": "$(TOPIC)"}, {}),
    ],
)  # fmt: skip
def test_what_variables_say_is_judged_with_the_file(env: dict[str, Any], found: dict[str, str]) -> None:
    variables = [
        {"name": name, "valueFrom": value} if isinstance(value, dict)
        else {"name": name} if value is None
        else {"name": name, "value": value}
        for name, value in env.items()
    ]  # fmt: skip
    made = resource(gateway__env=variables)
    told = {path_of(place): why for place, why in config_faults(InferenceGateway.model_validate(made))}
    assert told.keys() == {f"spec.gateway.{place}" for place in found}
    for place, why in found.items():
        assert told[f"spec.gateway.{place}"].startswith(
            f"the gateway would refuse it{why if why[0] == ':' else f' {why}'}"
        )
    assert disagreements(made) == []


def test_the_operator_s_own_variables_are_not_the_gateway_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODPAIR_LIMITS__SESSIONS", "0")
    env = [{"name": "PODPAIR_LOG__LEVEL", "value": "debug"}]
    assert list(config_faults(InferenceGateway.model_validate(resource(gateway__env=env)))) == []


def test_a_password_is_not_set_twice_whatever_it_is() -> None:
    """By the operator, of the Secret, and by a variable that names a file."""
    env = [{"name": "PODPAIR_KAFKA__CLIENT_FILES__SASL_PASSWORD", "value": "/run/p"}]
    ((place, why),) = config_faults(InferenceGateway.model_validate(resource(**SASL_AND_TLS, gateway__env=env)))
    assert path_of(place) == "spec.gateway.env[0]"
    assert "sasl.password: in client and in client_files: choose one" in why


def test_every_field_that_is_named_is_there() -> None:
    def model_of(annotation: Any) -> Any:
        kinds = (annotation, *get_args(annotation))
        return next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)

    def known(model: Any, path: str) -> bool:
        for name in path.split("."):
            fields = {field.alias or own: field for own, field in model.model_fields.items()} if model else {}
            if name not in fields:
                return False
            model = model_of(fields[name].annotation)
        return True

    assert [setting for setting in FIELDS if not known(Config, setting)] == []
    assert [field for field in FIELDS.values() if not known(Spec, field)] == []


def test_every_setting_that_follows_from_a_field_has_that_field() -> None:
    settings = set()
    for gateway in GENERATED:
        for name, section in yaml.safe_load(config_map(gateway)["data"]["gateway.yaml"]).items():
            settings |= {f"{name}.{setting}" for setting in section} if isinstance(section, dict) else {name}
    assert settings - FIELDS.keys() == FIXED


def test_the_gateway_reads_the_configuration_that_the_operator_has_built(tmp_path: Path) -> None:
    assert len(GENERATED) > 30
    for gateway in GENERATED:
        (tmp_path / "gateway.yaml").write_text(config_map(gateway)["data"]["gateway.yaml"])
        assert load(tmp_path / "gateway.yaml") == gateway_config(gateway)


def test_a_user_s_name_and_password_are_not_set_a_second_time() -> None:
    client = {"sasl.username": "me", "SASL_PASSWORD": "secret"}
    assert disagreements(resource(**SASL_AND_TLS, kafka__client=client)) == []
    assert disagreements(resource(**SASL_AND_TLS, kafka__client={"sasl.username": "me"})) == []


@pytest.fixture
def lax_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource's rules let a property pass that the gateway refuses."""
    monkeypatch.setattr("podpair.operator.core.api.kafka.OWNED", ())


@pytest.mark.usefixtures("lax_rules")
def test_validate_prints_them() -> None:
    text = yaml.safe_dump(resource(kafka__client={"acks": "1"}))
    (fault,) = load_manifests(text, check=offline_faults).faults
    assert (fault.field, text.splitlines()[fault.line - 1].strip()) == ("spec.kafka.client", "client:")
    assert "acks is podpair's own to set" in fault.message


@pytest.mark.usefixtures("lax_rules")
async def test_the_operator_reports_them_and_applies_nothing() -> None:
    made = resource(kafka__client={"acks": "1"})
    made["metadata"] |= {"namespace": "default", "uid": "u", "resourceVersion": "1", "generation": 3}
    client = Mock(Client, apply=AsyncMock(side_effect=lambda path, said, **_: {**made, "status": said["status"]}))
    gateways = GatewayStore(client, ())
    key = gateways.update(made)
    applier, resolver, supervisor, finalizer, events = (Mock() for _ in range(5))
    cluster, reporting = Cluster(client, Mock(), Mock(), applier), Reporting(Mock(), Mock(), events)
    reconciler = Reconciler(cluster, gateways, resolver, supervisor, finalizer, reporting)
    for _ in range(2):
        assert await reconciler.reconcile(key) is None
    ((path, said), _) = client.apply.call_args  # once: the second time it is in the status already
    assert (client.apply.call_count, path.endswith("/digits/status")) == (1, True)
    ready = next(one for one in said["status"]["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["observedGeneration"]) == ("False", "InvalidSpec", 3)
    assert "spec.kafka.client: the gateway would refuse it (kafka.client): acks is podpair's own" in ready["message"]
    for untouched in (applier, resolver, supervisor, finalizer, events):
        assert untouched.mock_calls == []
