"""A broker that demands to know who one is: what the operator passes on, and secrets from files, are ways in; none is told."""

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.conftest import Connect
from harness.kafka import SecureBroker
from harness.pair import SECRET, Gateway, Inference
from harness.processes import BIN, completed
from harness.waiting import soon
from podpair.common.gateway_config.environment import merged

pytestmark = pytest.mark.process

Start = Callable[..., Gateway]


@pytest.fixture
def user(secure_broker: SecureBroker, names: dict[str, Any]) -> tuple[str, str]:
    """A user's name and password who may do what a gateway does, and nothing else."""
    name, password = f"gateway-{uuid.uuid4().hex[:8]}", f"pass-{uuid.uuid4().hex}"
    secure_broker.set_password(name, password)
    allow(secure_broker, name, names)
    return name, password


def allow(broker: SecureBroker, name: str, names: dict[str, Any]) -> None:
    requests, results = names["requests"]["topic"], names["results"]["topic"]
    broker.allow(name, "TOPIC", requests, "READ", "WRITE", "DESCRIBE", "CREATE")
    broker.allow(name, "TOPIC", results, "READ", "WRITE", "DESCRIBE", "CREATE")
    broker.allow(name, "TOPIC", f"{requests}.dlq", "WRITE", "DESCRIBE", "CREATE", "READ")
    broker.allow(name, "GROUP", names["requests"]["group"], "READ")
    broker.allow(name, "GROUP", f"{names['requests']['group']}.replay", "READ")


@pytest.fixture
def start(inference: Inference, names: dict[str, Any], start_gateway: Start) -> Start:
    def begin(wait: bool = True, env: dict[str, str] | None = None, **config: Any) -> Gateway:
        return start_gateway(merged({"inference": {"url": inference.url}} | names, config), wait=wait, env=env)

    return begin


def files(folder: Path, **texts: str) -> dict[str, str]:
    """Paths of files with these contents."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in texts}


def written(gateway: Gateway) -> str:
    """All that it has logged."""
    return "\n".join(gateway.lines)


async def serves(gateway: Gateway, connect: Connect) -> None:
    gateway.wait_ready()
    client = await connect(gateway)
    for route in ("direct", "queue"):
        await client.infer(route, route=route)
        assert (await client.answer(route))["type"] == "result"


@pytest.mark.parametrize("exactly_once", [False, True])
@pytest.mark.parametrize(
    ("protocol", "mechanism"), [("SASL_PLAINTEXT", "SCRAM-SHA-256"), ("SASL_SSL", "SCRAM-SHA-512")]
)
async def test_scram_as_the_operator_passes_it_on(
    secure_broker: SecureBroker, user: tuple[str, str], start: Start, connect: Connect, tmp_path: Path,
    protocol: str, mechanism: str, exactly_once: bool,
) -> None:  # fmt: skip
    """User and password in the environment, the rest in the file, as in the objects that the operator makes."""
    name, password = user
    env = {"PODPAIR_KAFKA__CLIENT__SASL_USERNAME": name, "PODPAIR_KAFKA__CLIENT__SASL_PASSWORD": password}
    client = {"security.protocol": protocol, "sasl.mechanism": mechanism}
    if protocol == "SASL_SSL":
        client["ssl.ca.location"] = files(tmp_path, ca=secure_broker.authority.certificate)["ca"]
    if exactly_once:
        secure_broker.allow(name, "TRANSACTIONAL_ID", "*", "WRITE", "DESCRIBE")
    kafka = {"bootstrap_servers": secure_broker.addresses[protocol], "client": client}
    gateway = start(env=env, kafka=kafka, requests={"exactly_once": exactly_once})
    await serves(gateway, connect)
    assert password not in written(gateway)


async def test_the_password_in_a_file(
    secure_broker: SecureBroker, user: tuple[str, str], start: Start, connect: Connect, tmp_path: Path
) -> None:
    name, password = user
    path = files(tmp_path, password=password + "\n")["password"]
    kafka = {
        "bootstrap_servers": secure_broker.addresses["SASL_PLAINTEXT"],
        "client": {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": name},
        "client_files": {"sasl.password": path},
    }
    gateway = start(kafka=kafka, log={"level": "debug"})
    await serves(gateway, connect)
    assert password not in written(gateway)


async def test_plain_over_tls(
    secure_broker: SecureBroker, start: Start, connect: Connect, tmp_path: Path, names: dict[str, Any]
) -> None:
    allow(secure_broker, "app", names)
    paths = files(tmp_path, ca=secure_broker.authority.certificate, password=secure_broker.PLAIN_USERS["app"])
    kafka = {
        "bootstrap_servers": secure_broker.addresses["SASL_SSL"],
        "client": {
            "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "app",
            "ssl.ca.location": paths["ca"],
        },
        "client_files": {"sasl.password": paths["password"]},
    }  # fmt: skip
    await serves(start(kafka=kafka), connect)


async def test_a_client_s_certificate(
    secure_broker: SecureBroker, start: Start, connect: Connect, tmp_path: Path, names: dict[str, Any]
) -> None:
    allow(secure_broker, "shown", names)
    issued = secure_broker.authority.issue("shown")
    paths = files(tmp_path, ca=secure_broker.authority.certificate, cert=issued.certificate, key=issued.key)
    client = {
        "security.protocol": "SSL", "ssl.ca.location": paths["ca"], "ssl.certificate.location": paths["cert"],
        "ssl.key.location": paths["key"],
    }  # fmt: skip
    gateway = start(kafka={"bootstrap_servers": secure_broker.addresses["SSL"], "client": client})
    await serves(gateway, connect)


async def test_a_wrong_password_is_told_as_that_and_not_repeated(
    secure_broker: SecureBroker, user: tuple[str, str], start: Start
) -> None:
    client = {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": user[0],
        "sasl.password": "wrong-5f2c",
    }  # fmt: skip
    gateway = start(
        wait=False, kafka={"bootstrap_servers": secure_broker.addresses["SASL_PLAINTEXT"], "client": client}
    )
    gateway.wait_for(lambda line: "check sasl.mechanism, sasl.username and sasl.password" in line)
    assert "wrong-5f2c" not in written(gateway)


async def test_a_broker_that_is_not_trusted_is_told_as_that(secure_broker: SecureBroker, start: Start) -> None:
    client = {"security.protocol": "SSL"}
    gateway = start(wait=False, kafka={"bootstrap_servers": secure_broker.addresses["SSL"], "client": client})
    gateway.wait_for(lambda line: "check security.protocol and the ssl.* properties" in line)


async def test_topics_that_are_not_allowed_are_named(
    secure_broker: SecureBroker, start: Start, names: dict[str, Any]
) -> None:
    secure_broker.set_password("nobody", "nobody-password")
    client = {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "nobody",
        "sasl.password": "nobody-password",
    }  # fmt: skip
    gateway = start(
        wait=False, kafka={"bootstrap_servers": secure_broker.addresses["SASL_PLAINTEXT"], "client": client}
    )
    await soon(lambda: gateway.process.poll() is not None)
    assert gateway.process.returncode == 1
    assert names["requests"]["topic"] in written(gateway)
    assert "uthorization failed" in written(gateway)


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return completed(BIN / "podpair-gateway", *arguments, env=environment)


async def test_commands_log_in_as_the_gateway_does(
    secure_broker: SecureBroker, user: tuple[str, str], start: Start, connect: Connect, tmp_path: Path,
    names: dict[str, Any],
) -> None:  # fmt: skip
    name, password = user
    kafka = {
        "bootstrap_servers": secure_broker.addresses["SASL_PLAINTEXT"],
        "client": {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": name},
        "client_files": files(tmp_path, **{"sasl.password": password}),
    }
    gateway = start(kafka=kafka)
    gateway.wait_ready()
    client = await connect(gateway)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"auth": {"secret": SECRET}, "kafka": kafka} | names))
    done = run("push", "--config", path, "--session", client.welcome["session"], '{"by": "a command"}')
    assert done.returncode == 0, done.stderr
    assert (await client.event("push"))["data"] == {"by": "a command"}
    done = run("replay", "--config", path, "--list")
    assert (done.returncode, done.stderr) == (0, "0 dead letters\n")


def test_what_is_wrong_with_the_files_is_told_at_once(tmp_path: Path) -> None:
    kafka = {
        "client": {"sasl.password": "hunter2"},
        "client_files": {
            "sasl.username": str(tmp_path / "missing"), "ssl.key.password": files(tmp_path, empty="\n")["empty"],
        },
    }  # fmt: skip
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"auth": {"secret": SECRET}, "kafka": kafka}))
    done = run("config", "check", "--config", path)
    assert done.returncode == 2
    assert f"kafka.client_files.sasl.username: {tmp_path / 'missing'}: No such file or directory" in done.stderr
    assert f"kafka.client_files.ssl.key.password: {tmp_path / 'empty'} is empty" in done.stderr
    shown = run("config", "show", "--config", path)
    assert "hunter2" not in shown.stdout + shown.stderr
    both = run("config", "check", "--config", path, PODPAIR_KAFKA__CLIENT_FILES__SASL_PASSWORD="/x")
    assert "sasl.password: in client and in client_files: choose one" in both.stderr
    owned = run("config", "check", "--config", path, PODPAIR_KAFKA__CLIENT_FILES__GROUP_ID="/x")
    assert "group.id is podpair's own to set" in owned.stderr
