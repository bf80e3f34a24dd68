"""One configuration from file, environment and options; every fault is told at once, with where it came from."""

from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.model import Config
from podpair.common.redaction import redact
from podpair.gateway.config.load import load

SECRET = "configured-secret-0123456789-0123456789"
BASE = {"auth": {"secret": SECRET}}
MINTING = {"enabled": True, "mint_tokens": True}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PODPAIR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(values: Any) -> Path:
        path = tmp_path / "gateway.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return path

    return write


def faults(path: Path | None, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(FaultsError) as refused:
        load(path, overrides)
    return refused.value.faults


def test_options_over_environment_over_file_over_defaults(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(
        {
            **BASE,
            "http": {"host": "0.0.0.0", "port": 1},
            "limits": {"max_direct_in_flight": 7},
            "log": {"level": "debug"},
        }
    )
    monkeypatch.setenv("PODPAIR_HTTP__PORT", "2")
    monkeypatch.setenv("PODPAIR_LIMITS__SESSIONS", "9")
    monkeypatch.setenv("PODPAIR_SHUTDOWN_SECONDS", "3.5")
    config = load(path, {"http": {"port": 3}})
    assert (config.http.host, config.http.port) == ("0.0.0.0", 3)
    assert (config.limits.max_direct_in_flight, config.limits.sessions, config.limits.in_flight) == (7, 9, 256)
    assert (config.log.level, config.log.format, config.shutdown_seconds) == ("debug", "json", 3.5)
    assert load(path).http.port == 2


@pytest.mark.parametrize(
    ("said", "variables", "client"),
    [
        ({"sasl.username": "f"}, {"__SASL_USERNAME": "e"}, {"sasl.username": "e"}),
        ({"SASL_Username": "f", "linger.ms": 5}, {"__SASL_USERNAME": "e"}, {"linger.ms": 5, "sasl.username": "e"}),
        ({"queue.buffering.max.ms": 5}, {"__LINGER_MS": "6"}, {"linger.ms": "6"}),
        ({"log_level": 3}, {"__LOG_LEVEL": "6"}, {"log_level": "6"}),
        ({"sasl.username": "f"}, {"": '{"SASL_USERNAME": "e"}'}, {"sasl.username": "e"}),
        ({}, {"": '{"sasl.username": "whole"}', "__SASL_USERNAME": "part"}, {"sasl.username": "part"}),
    ],
)
def test_the_environment_comes_over_the_file_in_any_spelling_of_a_property(
    file: Any, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], variables: dict[str, str], client: dict[str, Any]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"PODPAIR_KAFKA__CLIENT{name}", value)
    assert load(file({**BASE, "kafka": {"client": said}})).kafka.client == client


def test_a_file_of_a_property_comes_over_another_in_any_spelling(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODPAIR_KAFKA__CLIENT_FILES__SASL_PASSWORD", "/e")
    config = load(file({**BASE, "kafka": {"client_files": {"sasl.password": "/f"}}}))
    assert config.kafka.client_files == {"sasl.password": Path("/e")}


@pytest.mark.parametrize(
    ("said", "variables"),
    [
        ({"linger.ms": 5, "LINGER_MS": 6}, {}),
        ({}, {"LINGER_MS": "5", "QUEUE_BUFFERING_MAX_MS": "6"}),
    ],
)
def test_a_property_that_one_source_sets_twice_is_refused(
    file: Any, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"PODPAIR_KAFKA__CLIENT__{name}", value)
    (fault,) = faults(file({**BASE, "kafka": {"client": said}}))
    assert "linger.ms is set twice" in fault


def test_an_option_leaves_the_rest_of_its_section(file: Any) -> None:
    config = load(file({**BASE, "kafka": {"client": {"sasl.username": "u"}, "create_topics": False}}),
                  {"kafka": {"embedded": True}})  # fmt: skip
    assert config.kafka.embedded
    assert not config.kafka.create_topics
    assert config.kafka.client == {"sasl.username": "u"}


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "http:\n# port: 1\nkafka:\n"])
def test_what_is_commented_out_says_nothing(file: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PODPAIR_AUTH__SECRET", SECRET)
    assert load(file(text)) == load(None)


@pytest.mark.parametrize(
    ("origins", "claims", "alone", "servers"),
    [
        ("https://A.example, http://localhost:3000", "sub", "a, b", "k1:9092,k2:9092"),
        ('["https://A.example", "http://localhost:3000"]', '["sub"]', ' [ "a","b" ]', '["k1:9092", "k2:9092"]'),
    ],
)
def test_a_list_in_the_environment_has_commas_or_is_json(
    monkeypatch: pytest.MonkeyPatch, origins: str, claims: str, alone: str, servers: str
) -> None:
    monkeypatch.setenv("PODPAIR_AUTH__SECRET", SECRET)
    monkeypatch.setenv("PODPAIR_HTTP__ORIGINS", origins)
    monkeypatch.setenv("PODPAIR_AUTH__REQUIRED_CLAIMS", claims)
    monkeypatch.setenv("PODPAIR_BATCHING__EXCLUDE", alone)
    monkeypatch.setenv("PODPAIR_KAFKA__BOOTSTRAP_SERVERS", servers)
    config = load(None)
    assert config.http.origins == ("https://a.example", "http://localhost:3000")
    assert config.auth.required_claims == ("sub",)
    assert config.batching.exclude == ("a", "b")
    assert config.kafka.bootstrap_servers == "k1:9092,k2:9092"


def test_every_setting_that_is_a_list_takes_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds a list that is not marked as one sees it here."""
    monkeypatch.setenv("PODPAIR_AUTH__SECRET", SECRET)
    for section, field in Config.model_fields.items():
        settings = getattr(field.annotation, "model_fields", {})
        for name in (name for name, setting in settings.items() if get_origin(setting.annotation) is tuple):
            variable = f"PODPAIR_{section}__{name}".upper()
            monkeypatch.setenv(variable, "[")
            (fault,) = faults(None)
            assert fault == (
                f"{section}.{name} ({variable}): it begins as JSON does, but is none: Expecting value: line 1 column 2 (char 1)"
            )
            for empty in ("[]", ""):
                monkeypatch.setenv(variable, empty)
                if name == "retry_seconds":
                    assert faults(None) == ["deliveries: retry_seconds is empty: name one wait at least"]
                else:
                    assert getattr(getattr(load(None), section), name) == ()
            monkeypatch.delenv(variable)


def test_rules_sections_and_mappings_in_the_environment_are_json(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file({**BASE, "limits": {"max_direct_in_flight": 7, "in_flight": 8}, "kafka": {"client": {"log_level": 5}}})
    monkeypatch.setenv(
        "PODPAIR_ADMISSION__RULES", '[{"claim": "tenant", "models": "chat-*, b", "routes": ["queue"]}, {"sessions": 2}]'
    )
    monkeypatch.setenv("PODPAIR_LIMITS__MAX_DIRECT_IN_FLIGHT", "9")
    monkeypatch.setenv("PODPAIR_LIMITS", '{"max_direct_in_flight": 3, "sessions": 4}')
    monkeypatch.setenv("PODPAIR_KAFKA__CLIENT__SASL_USERNAME", "u")
    monkeypatch.setenv("PODPAIR_KAFKA__CLIENT", '{"sasl.password": "hunter2", "log_level": 7}')
    config = load(path)
    first, second = config.admission.rules
    assert (first.claim, first.models, first.routes) == ("tenant", ("chat-*", "b"), ("queue",))
    assert (second.claim, second.sessions) == ("sub", 2)
    assert (config.limits.max_direct_in_flight, config.limits.sessions, config.limits.in_flight) == (9, 4, 8)
    assert config.kafka.client == {"sasl.username": "u", "sasl.password": "hunter2", "log_level": 7}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HTTP__ORIGINS", '["https://a"', "http.origins (PODPAIR_HTTP__ORIGINS): it begins as JSON does, but is none: "),
        ("HTTP__ORIGINS", '{"https://a": 1}', 'http.origins (PODPAIR_HTTP__ORIGINS): a list is needed: ["a", "b"], or a,b'),
        ("HTTP__ORIGINS", "[1]", "http.origins.0 (PODPAIR_HTTP__ORIGINS): Input should be a valid string"),
        ("HTTP__ORIGINS", "https://a/", "http.origins (PODPAIR_HTTP__ORIGINS): 'https://a/' is not an origin"),
        ("ADMISSION__RULES", '[{"clam": "x"}]', "admission.rules.0.clam (PODPAIR_ADMISSION__RULES): there is no such"),
        ("ADMISSION__RULES", "tenant", "admission.rules.0 (PODPAIR_ADMISSION__RULES): settings by name are needed here, as {"),
        ("KAFKA__CLIENT", '{"sasl.password": "hunter2"', "kafka.client (PODPAIR_KAFKA__CLIENT): settings by name are needed "),
        ("KAFKA__CLIENT", '{"acks": 1}', "kafka.client (PODPAIR_KAFKA__CLIENT): acks is podpair's own to set"),
        ("LIMITS", '{"max_direct_in_flight": 0}', "limits.max_direct_in_flight (PODPAIR_LIMITS): Input should be greater than 0"),
        ("LIMITS", "9", 'limits (PODPAIR_LIMITS): settings by name are needed here, as {"name": "value"}'),
        ("LIMITS", "[" * 100_000, "limits (PODPAIR_LIMITS): settings by name are needed here: it is JSON that is nested too"),
        ("KAFKA__BOOTSTRAP_SERVERS", '["a:1"', "kafka.bootstrap_servers (PODPAIR_KAFKA__BOOTSTRAP_SERVERS): it begins as JSON"),
    ],
)  # fmt: skip
def test_a_variable_that_is_no_list_or_mapping_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("PODPAIR_AUTH__SECRET", SECRET)
    monkeypatch.setenv(f"PODPAIR_{variable}", value)
    (fault,) = faults(None)
    assert fault.startswith(said)
    assert "hunter2" not in fault


@pytest.mark.parametrize(
    "origin",
    ["https://a.example", "http://localhost:3000", "http://[::1]:3000", "chrome-extension://abcdef", "*", "HTTPS://A_b.example"],
)  # fmt: skip
def test_an_origin(file: Any, origin: str) -> None:
    assert load(file(BASE | {"http": {"origins": [origin]}})).http.origins == (origin.lower(),)


@pytest.mark.parametrize(
    "origin",
    [
        "a.example", "https://", "https://a/", "https://a/path", "https://a?q", "https://a#f", "https://u@a", "https://u:p@a",
        "https://a:port", "https://*.a", '["https://a"]', "'https://a'", "https://a b", "null", "//a", "https:a", "https://[::1",
    ],
)  # fmt: skip
def test_what_is_no_origin(file: Any, origin: str) -> None:
    (fault,) = faults(file(BASE | {"http": {"origins": [origin]}}))
    assert f"{redact(origin)!r} is not an origin: write scheme://host[:port]" in fault


def test_any_librdkafka_property(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file({**BASE, "kafka": {"client": {"sasl.mechanisms": "PLAIN", "log_level": 7}}})
    monkeypatch.setenv("PODPAIR_KAFKA__CLIENT__SASL_USERNAME", "u")
    monkeypatch.setenv("PODPAIR_KAFKA__CLIENT__SSL_CA_LOCATION", "/ca")
    monkeypatch.setenv("PODPAIR_KAFKA__CLIENT__LOG_LEVEL", "6")
    assert load(path).kafka.client == {
        "sasl.mechanisms": "PLAIN", "log_level": "6", "sasl.username": "u", "ssl.ca.location": "/ca",
    }  # fmt: skip


def test_all_faults_at_once_with_their_source(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(
        {"http": {"prot": 1, "port": "many"}, "limitz": {}, "results": {"topic": "a b"}, "log": {"level": "loud"}}
    )
    monkeypatch.setenv("PODPAIR_KAFKA__EMBEDDED", "perhaps")
    monkeypatch.setenv("PODPAIR_LIMITS__SESION", "5")
    monkeypatch.setenv("PODPAIR_SESSION__IDLE_SECONDS", "5")
    told = "\n".join(faults(path))
    for line in (
        f"http.port ({path}): Input should be a valid integer",
        f"http.prot ({path}): there is no such setting; did you mean 'port'?",
        f"limitz ({path}): there is no such setting; did you mean 'limits'?",
        f"results.topic ({path}): ",
        f"log.level ({path}): Input should be 'debug', 'info', 'warning' or 'error'",
        "auth: no way to verify tokens: set one of secret, secret_file, public_key_file, jwks_url",
        "kafka.embedded (PODPAIR_KAFKA__EMBEDDED): Input should be a valid boolean",
        "limits.sesion (PODPAIR_LIMITS__SESION): there is no such setting; did you mean 'sessions'?",
        "PODPAIR_SESSION__IDLE_SECONDS (environment): there is no section 'session'; did you mean 'sessions'?",
    ):
        assert line in told
    assert len(told.splitlines()) == 9


def auth(**settings: Any) -> dict[str, Any]:
    return {"auth": settings}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (auth(secret="short"), "secret is shorter than 32 bytes"),
        (auth(secret=SECRET, jwks_url="https://x"), "secret and jwks_url are set: choose one"),
        (auth(disabled=True, secret=SECRET), "disabled is true, but secret is set too"),
        (auth(jwks_url="ftp://x"), "jwks_url 'ftp://x' is not an http(s) URL"),
        (auth(jwks_url="https://"), "jwks_url 'https://' is not an http(s) URL"),
        (BASE | {"sessions": {"resume_secret": "short"}}, "resume_secret is shorter than 32 bytes"),
        (BASE | {"sessions": {"resume_secret": SECRET, "resume_secret_file": "f"}}, "choose one"),
        (BASE | {"http": {"origins": ["app.example"]}}, "'app.example' is not an origin: write scheme://host[:port]"),
        (BASE | {"http": {"origins": ["https://app.example/path"]}}, "without a path"),
        (BASE | {"http": {"port": 70000}}, "less than or equal to 65535"),
        (BASE | {"http": 5}, "settings by name are needed here"),
        (BASE | {"http": {1: 2}}, "http"),
        (BASE | {1: 2}, "1 ("),
        (BASE | {"kafka": {"client": {"acks": 1}}}, "acks is podpair's own to set"),
        (BASE | {"kafka": {"client": {"group_id": "x"}}}, "group.id is podpair's own to set"),
        (BASE | {"kafka": {"client": {"a": {"b": 1}}}}, "kafka.client"),
        (BASE | {"kafka": {"bootstrap_servers": ""}}, "'' is not host:port"),
        (BASE | {"kafka": {"bootstrap_servers": "a:9092,http://b:9092"}}, "'http://b:9092' is not host:port"),
        (BASE | {"requests": {"topic": "t"}, "results": {"topic": "t"}}, "are the same"),
        (
            BASE | {"inference": {"url": "localhost:8081"}},
            "is neither http(s)://host:port, grpc(s)://host:port nor unix:/path",
        ),
        (BASE | {"inference": {"url": "grpc://localhost"}}, "gRPC needs a port"),
        (BASE | {"inference": {"url": "http://localhost:80810"}}, "Port out of range"),
        (BASE | {"tracing": {"endpoint": "http:///v1/traces"}}, "is not an http(s) URL"),
        (BASE | {"console": MINTING, "http": {"host": "0.0.0.0"}}, "needs auth.secret and a loopback"),
        (auth(disabled=True) | {"console": MINTING}, "needs auth.secret and a loopback"),
        (BASE | {"console": {"mint_tokens": True}}, "set console.enabled too"),
        (BASE | {"operations": {"port": 8080}}, "operations.port and http.port are both 8080"),
        (BASE | {"http": {"port": 8083}}, "operations.port and http.port are both 8083"),
        (BASE | {"http": {"host": "::1", "port": 1}, "operations": {"host": "::1", "port": 1}}, "are both 1: choose"),
        (BASE | {"operations": {"port": 65_536}}, "operations.port"),
        (BASE | {"limits": {"sessions": 0}}, "greater than 0"),
        (BASE | {"sessions": {"heartbeat_seconds": 0}}, "greater than 0"),
    ],
)
def test_a_fault(file: Any, values: dict[Any, Any], said: str) -> None:
    told = faults(file(values))
    assert len(told) == 1
    assert said in told[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_tokens_are_minted_on_a_loopback_address_only(file: Any, host: str) -> None:
    assert load(file(BASE | {"console": MINTING, "http": {"host": host}})).console.mint_tokens


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", "not YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"- 1", "a mapping is needed"),
        (b"text", "a mapping is needed"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert said in faults(path)[0]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert faults(tmp_path / "x.yaml") == [f"{tmp_path / 'x.yaml'}: No such file or directory"]
    assert faults(tmp_path) == [f"{tmp_path}: Is a directory"]


@pytest.mark.parametrize("name", ["PODPAIR_HTTP", "PODPAIR_KAFKA__CLIENT", "PODPAIR_HTTP__PORT__X"])
def test_a_variable_that_names_no_value(monkeypatch: pytest.MonkeyPatch, file: Any, name: str) -> None:
    monkeypatch.setenv(name, "x")
    assert len(faults(file(BASE))) == 1


def test_what_kubernetes_sets_beside_a_service_is_no_fault(monkeypatch: pytest.MonkeyPatch, file: Any) -> None:
    for name, value in {
        "PODPAIR_SERVICE_HOST": "10.0.0.1", "PODPAIR_PORT": "tcp://10.0.0.1:80", "PODPAIR_HTTP_PORT": "tcp://10.0.0.1:80",
        "PODPAIR_HTTP_SERVICE_PORT": "80", "PODPAIR_KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1", "PODPAIR_TEST_REQUIRE": "all",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert load(file(BASE)).http.port == 8080


def test_secrets_are_in_no_repr_and_no_fault(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODPAIR_KAFKA__CLIENT__SASL_PASSWORD", "hunter2")
    values = {**BASE, "sessions": {"resume_secret": SECRET[::-1]}}
    config = load(file(values))
    assert isinstance(config, Config)
    told = repr(config) + str(config) + "\n".join(faults(file(values | {"http": {"port": -1}})))
    for secret in (SECRET, SECRET[::-1], "hunter2"):
        assert secret not in told
