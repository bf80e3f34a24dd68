"""Credentials come from Secrets; what is missing is told all at once; what is secret is never shown."""

import pytest

from harness.resources import gateway_at
from podpair.operator.core.broker_access import broker_access, followed
from podpair.operator.core.credentials import Credentials, MissingSecret, read_credentials, secret_names

WANTED = gateway_at(
    "kafka:9092",
    "digits",
    kafka__tls={"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}},
    kafka__sasl={"secretName": "user", "passwordKey": "pass"},
)


def test_all_are_read() -> None:
    assert secret_names(WANTED) == ["ca", "client", "user"]
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
    assert followed(client) == {"socket.keepalive.enable": "true"}
