"""Credentials come from Secrets; what is missing is told all at once; what is secret is never shown."""

import pytest

from harness.resources import gateway_at, resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.broker_access import allowed_properties, broker_access
from podpair.operator.core.builders.scaling import autoscaler
from podpair.operator.core.credentials import Credentials, MissingSecret, read_credentials

WANTED = gateway_at(
    "kafka:9092",
    "digits",
    kafka__tls={"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}},
    kafka__sasl={"secretName": "user", "passwordKey": "pass"},
)


def test_all_are_read() -> None:
    secrets = {
        "user": {"username": b"ada", "pass": b"s3cret"},
        "ca": {"ca.crt": b"CA"},
        "client": {"tls.crt": b"CERT", "tls.key": b"KEY"},
    }
    found = read_credentials(WANTED, secrets)
    assert found == Credentials("ada", "s3cret", "CA", "CERT", "KEY")
    access = broker_access(WANTED, found)
    assert dict(access.properties)["security.protocol"] == "SASL_SSL"
    assert dict(access.properties)["ssl.key.pem"] == "KEY"
    for shown in (repr(found), repr(access), str(access)):
        assert "s3cret" not in shown
        assert "KEY" not in shown


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("kafka:9092", "kafka.models.svc:9092"),
        ("kafka.events:9092,10.0.0.7:9093,localhost:1", "kafka.events:9092,10.0.0.7:9093,localhost:1"),
        ("one:1,two.example:2", "one.models.svc:1,two.example:2"),
    ],
)
def test_a_name_means_the_same_broker_to_the_operator_and_keda_as_to_the_pods(written: str, asked: str) -> None:
    changed = {"bootstrapServers": written}
    made = resource(kafka=changed, scaling={"provider": "keda", "metrics": [{"lag": 5}]})
    made["metadata"]["namespace"] = "models"
    gateway = InferenceGateway.model_validate(made)
    access = broker_access(gateway, Credentials())
    assert (access.servers, dict(access.properties)["bootstrap.servers"]) == (asked, asked)
    (scaled,) = autoscaler(gateway)
    assert scaled["spec"]["triggers"][0]["metadata"]["bootstrapServers"] == asked


def test_all_that_is_missing_is_told_with_what_to_do() -> None:
    with pytest.raises(MissingSecret) as missing:
        read_credentials(WANTED, {"user": {"username": b"ada", "password": b"x"}, "ca": {"ca.crt": b"\xff"}})
    told = str(missing.value)
    assert "Secret default/user has no key pass (spec.kafka.sasl names it; it has password, username)" in told
    assert "Secret default/client not found (spec.kafka.tls.clientCertificateRef names it)" in told
    assert "Secret default/ca: key ca.crt is not text" in told


def test_a_resource_can_t_make_the_operator_read_files_or_run_commands() -> None:
    client = {
        "socket.keepalive.enable": "true",
        "ssl.key.location": "/var/run/secrets/kubernetes.io/serviceaccount/token",
        "plugin.library.paths": "/tmp/x.so",
        "sasl.kerberos.kinit.cmd": "touch /tmp/x",
        "sasl.oauthbearer.token.endpoint.url": "http://169.254.169.254/",
        "debug": "all",
    }
    assert allowed_properties(client) == {"socket.keepalive.enable": "true"}


def test_the_operator_reads_a_property_s_name_as_the_gateway_does() -> None:
    client = {"Socket_Timeout_MS": "5000", "SSL_KEY_LOCATION": "/key.pem", "LOG_LEVEL": "3"}
    assert allowed_properties(client) == {"socket.timeout.ms": "5000"}
