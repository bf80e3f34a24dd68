"""The commands as a person runs them."""

import json
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import jwt
import pytest
import yaml

from harness.pair import Gateway
from harness.processes import BIN, ROOT, completed

pytestmark = pytest.mark.process

SECRET = "configured-secret-0123456789-0123456789"


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return completed(BIN / "podpair-gateway", *arguments, env=environment)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({
        "auth": {"secret": SECRET, "issuer": "me", "audience": "podpair", "session_claim": "sid"},
        "kafka": {"client": {"sasl.username": "u", "sasl.password": "hunter2", "ssl.key.pem": "PRIVATE"}},
    }))  # fmt: skip
    return path


def test_help_names_the_commands_and_starts_nothing() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "config", "token", "push"):
        assert command in done.stdout
    assert "PODPAIR_HTTP__PORT=9000" in done.stdout


def test_check_is_content(file: Path) -> None:
    done = run("config", "check", "--config", file)
    assert (done.returncode, done.stdout) == (0, "the configuration is good\n")


@pytest.mark.parametrize("command", [("config", "check"), ("serve",)])
def test_every_command_tells_all_faults_and_exits_with_2(command: tuple[str, ...]) -> None:
    done = run(*command, PODPAIR_HTTP__PORT="x", PODPAIR_HTPP__PORT="1", PODPAIR_HTTP__ORIGINS="nonsense")
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "podpair-gateway: 4 faults in the configuration"
    assert len(lines) == 5
    assert "Traceback" not in done.stderr


def test_one_fault_is_one() -> None:
    assert run("config", "check").stderr.startswith("podpair-gateway: 1 fault in the configuration\n  auth: no way")


def test_a_secret_file_that_is_missing_is_told_by_serve() -> None:
    done = run("serve", PODPAIR_AUTH__SECRET_FILE="/nowhere/secret")
    assert done.returncode == 2
    assert "auth.secret_file: /nowhere/secret: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_show_is_the_configuration_in_force_without_its_secrets(file: Path) -> None:
    done = run("config", "show", "--config", file, PODPAIR_HTTP__PORT="9")
    assert done.returncode == 0
    for secret in (SECRET, "hunter2", "PRIVATE"):
        assert secret not in done.stdout
    shown = yaml.safe_load(done.stdout)
    assert shown["http"]["port"] == 9
    assert shown["kafka"]["client"]["sasl.username"] == "u"
    assert set(shown["kafka"]["client"]["sasl.password"]) == {"*"}
    assert shown["results"]["topic"] == "podpair.results"


def test_schema_explains_every_setting() -> None:
    schema = json.loads(run("config", "schema").stdout)
    models = [schema, *schema["$defs"].values()]
    leaves = [p for m in models for p in m["properties"].values() if "$ref" not in p and "properties" not in p]
    assert len(leaves) > 40
    assert [leaf for leaf in leaves if "description" not in leaf and "allOf" not in leaf] == []


def test_token_mints_what_the_gateway_takes(file: Path) -> None:
    done = run("token", "--config", file, "--sub", "ann", "--session", "s1", "--ttl", "60", "--claim", "role=admin",
               "--claim", "level=3")  # fmt: skip
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"], audience="podpair", issuer="me")
    assert (claims["sub"], claims["sid"], claims["role"], claims["level"]) == ("ann", "s1", "admin", 3)
    assert claims["exp"] - claims["iat"] == 60


def test_token_says_why_it_can_not() -> None:
    done = run("token", PODPAIR_AUTH__DISABLED="true")
    assert done.returncode == 1
    assert "auth.disabled lets everyone in" in done.stderr


def test_push_says_what_is_wrong() -> None:
    assert "DATA is not JSON" in run("push", "--kafka", "127.0.0.1:1", "--session", "s", "{").stderr


def test_the_page_of_settings_is_what_the_command_prints() -> None:
    """docs/configuration.md is `podpair-gateway config doc`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == run("config", "doc").stdout


def test_the_page_of_metrics_is_what_the_command_prints(pair: Gateway) -> None:
    """docs/metrics.md is `podpair-gateway metrics`, and all that a gateway exposes of its own is on it."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == run("metrics").stdout
    exposed = {line.split()[2] for line in pair.get("/metrics")[1].splitlines() if line.startswith("# TYPE podpair_")}
    assert exposed >= {"podpair_gateway_sessions", "podpair_gateway_request_duration_seconds"}
    told = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `podpair_")}
    assert {name for name in exposed if not name.endswith("_created")} == told


def test_check_reads_the_files_that_the_configuration_names(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("too short")
    environment = {
        "PODPAIR_AUTH__PUBLIC_KEY_FILE": str(tmp_path / "missing.pem"),
        "PODPAIR_SESSIONS__RESUME_SECRET_FILE": str(short),
    }
    done = run("config", "check", **environment)
    assert done.returncode == 2
    assert "2 faults" in done.stderr
    assert "auth.public_key_file" in done.stderr
    assert "missing.pem: No such file" in done.stderr
    assert "9 bytes, 32 are needed" in done.stderr


def test_a_property_that_librdkafka_does_not_have(tmp_path: Path) -> None:
    environment = {"PODPAIR_AUTH__SECRET": SECRET, "PODPAIR_KAFKA__CLIENT__NO_SUCH": "1"}
    environment |= {"PODPAIR_HTTP__PORT": "0", "PODPAIR_OPERATIONS__PORT": "0"}
    done = run("serve", **environment)
    assert done.returncode == 1
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines() if line.startswith("{")]
    assert any("no.such" in message and message.startswith("kafka.client:") for message in messages)
    assert "Traceback" not in done.stderr
    checked = run("config", "check", **environment)
    assert (checked.returncode, "kafka.client: No such configuration property" in checked.stderr) == (2, True)


def test_tokens_are_minted_for_this_machines_names_only(tmp_path: Path) -> None:
    """A page whose name was made to mean 127.0.0.1 gets none."""
    gateway = Gateway(tmp_path, {"kafka": {"embedded": True}, "console": {"enabled": True, "mint_tokens": True}})
    try:
        port = int(gateway.url.rsplit(":", 1)[1])
        for host, status in (("127.0.0.1", 200), ("localhost", 200), ("evil.example", 403)):
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("POST", "/console/token", headers={"Host": f"{host}:{port}"})
            assert connection.getresponse().status == status
            connection.close()
    finally:
        gateway.kill()


def test_no_password_of_a_url_is_shown(tmp_path: Path) -> None:
    urls = {
        "inference": {"url": "http://u:hunter2@model:8081"},
        "auth": {"jwks_url": "https://u:hunter2@issuer.example/jwks?api_key=hunter2&kid=1"},
        "tracing": {"endpoint": "http://hunter2@collector:4318/v1/traces"},
        "kafka": {"client": {"sasl.oauthbearer.token.endpoint.url": "https://u:hunter2@issuer.example/token"}},
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(urls))
    done = run("config", "show", "--config", path)
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout
    for part in ("@model:8081", "@issuer.example/jwks?api_key=", "kid=1", "@collector:4318", "@issuer.example/token"):
        assert part in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        {"inference": {"url": "ftp://u:hunter2@model"}},
        {"inference": {"url": "grpc://u:hunter2@model"}},
        {"auth": {"jwks_url": "ftp://u:hunter2@issuer", "disabled": False}},
        {"tracing": {"endpoint": "ftp://u:hunter2@collector"}},
        {"kafka": {"bootstrap_servers": "SSL://u:hunter2@broker:9092"}},
    ],
)
def test_no_password_of_a_url_is_told_with_what_is_wrong(tmp_path: Path, wrong: dict[str, object]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({"auth": {"disabled": True}} | wrong))
    done = run("config", "check", "--config", path)
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr
    assert "@" in done.stderr
