"""What a resource is told whose broker is away, doesn't know it or doesn't let it; and that it heals by itself."""

import asyncio

import pytest
from confluent_kafka import KafkaError

from harness.kafka import Broker, SecureBroker
from harness.processes import free_port
from harness.resources import gateway_at
from podpair.operator.core.credentials import Credentials
from podpair.operator.kafka.errors import broker_error, is_fatal
from podpair.operator.kafka.topics import Topics

NOBODY = Credentials()
TOPICS = ("default.{}.requests", "default.{}.results", "default.{}.requests.dlq")


async def test_a_broker_that_is_away_is_told_and_keeps_no_other_resource_waiting(
    topics: Topics, broker: Broker
) -> None:
    away = gateway_at(f"127.0.0.1:{free_port()}", "away")
    waiting = asyncio.create_task(topics.reconcile(away, NOBODY))
    assert (await topics.reconcile(gateway_at(broker.address, "there"), NOBODY)).ready
    assert not waiting.done()
    seen = await waiting
    assert (seen.ready, seen.reason) == (False, "BrokerUnreachable")
    assert away.spec.kafka.bootstrap_servers in seen.message
    assert "check spec.kafka.bootstrapServers" in seen.message
    assert (seen.lag, seen.partitions) == (None, None)


async def test_a_host_that_nobody_knows_is_told_by_name(topics: Topics) -> None:
    seen = await topics.reconcile(gateway_at("nowhere.invalid:9092", "lost"), NOBODY)
    assert seen.reason == "BrokerUnreachable"
    assert "nowhere.invalid" in seen.message


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_a_wrong_password_is_told_and_the_right_one_heals_it(
    topics: Topics, secure_broker: SecureBroker, protocol: str
) -> None:
    user, name = f"ada-{protocol}", f"password-{protocol.lower().replace('_', '-')}"
    tls = {"kafka__tls": {"caRef": {"name": "ca", "key": "ca.crt"}}} if protocol == "SASL_SSL" else {}
    wanted = gateway_at(secure_broker.addresses[protocol], name, kafka__sasl={"secretName": "kafka"}, **tls)
    secure_broker.set_password(user, "right")
    for topic in TOPICS:
        secure_broker.allow(user, "TOPIC", topic.format(name), "ALL")
    secure_broker.allow(user, "GROUP", f"default.{name}", "DESCRIBE")
    ca = secure_broker.authority.certificate

    seen = await topics.reconcile(wanted, Credentials(user, "wrong", ca))
    assert (seen.ready, seen.reason) == (False, "AuthenticationFailed")
    assert "check the Secret and the mechanism" in seen.message
    assert "wrong" not in seen.message

    assert (await topics.reconcile(wanted, Credentials(user, "right", ca))).ready
    # Mended at the broker instead, the same client is let in.
    secure_broker.set_password(user, "changed")
    assert (await topics.reconcile(wanted, Credentials(user, "changed", ca))).ready


async def test_plain_and_certificates_are_ways_in_too(topics: Topics, secure_broker: SecureBroker) -> None:
    ca = secure_broker.authority.certificate
    sasl = {"secretName": "kafka", "mechanism": "PLAIN"}
    wanted = gateway_at(secure_broker.addresses["SASL_PLAINTEXT"], "plain", kafka__sasl=sasl)
    assert (await topics.reconcile(wanted, Credentials("admin", "admin-password"))).ready

    client = secure_broker.authority.issue("admin")
    tls = {"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}}
    wanted = gateway_at(secure_broker.addresses["SSL"], "certificate", kafka__tls=tls)
    shown = Credentials(ca_pem=ca, certificate_pem=client.certificate, key_pem=client.key)
    assert (await topics.reconcile(wanted, shown)).ready


async def test_a_broker_that_is_not_trusted_is_told_so(topics: Topics, secure_broker: SecureBroker) -> None:
    wanted = gateway_at(secure_broker.addresses["SASL_SSL"], "tls", kafka__tls={}, kafka__sasl={"secretName": "kafka"})
    seen = await topics.reconcile(wanted, Credentials("admin", "admin-password"))
    assert seen.reason == "TlsFailed"
    assert "spec.kafka.tls" in seen.message


async def test_tls_where_the_listener_has_none_is_told_so(topics: Topics, secure_broker: SecureBroker) -> None:
    seen = await topics.reconcile(gateway_at(secure_broker.address, "no-tls", kafka__tls={}), NOBODY)
    assert seen.reason == "TlsFailed"


async def test_what_the_broker_does_not_allow_is_told_and_an_acl_heals_it(
    topics: Topics, secure_broker: SecureBroker
) -> None:
    secure_broker.set_password("bob", "bob")
    wanted = gateway_at(secure_broker.addresses["SASL_PLAINTEXT"], "acl", kafka__sasl={"secretName": "kafka"})
    bob = Credentials("bob", "bob")
    seen = await topics.reconcile(wanted, bob)
    assert (seen.ready, seen.reason) == (False, "NotAuthorized")
    assert "grant its user" in seen.message

    for topic in TOPICS:
        secure_broker.allow("bob", "TOPIC", topic.format("acl"), "ALL")
    seen = await topics.reconcile(wanted, bob)
    assert (seen.ready, seen.lag) == (True, None)
    assert "lag isn't known" in seen.message
    assert "Describe on the consumer group" in seen.message

    secure_broker.allow("bob", "GROUP", "default.acl", "DESCRIBE")
    seen = await topics.reconcile(wanted, bob)
    assert (seen.ready, seen.lag) == (True, 0)


async def test_properties_that_librdkafka_refuses_are_told(topics: Topics, broker: Broker) -> None:
    seen = await topics.reconcile(
        gateway_at(broker.address, "odd", kafka__client={"socket.nagle.disable": "perhaps"}), NOBODY
    )
    assert (seen.ready, seen.reason) == (False, "ClientPropertiesInvalid")
    assert "socket.nagle.disable" in seen.message
    assert "spec.kafka.client" in seen.message


async def test_a_certificate_that_is_none_is_told(topics: Topics, secure_broker: SecureBroker) -> None:
    tls = {"caRef": {"name": "ca", "key": "ca.crt"}}
    seen = await topics.reconcile(
        gateway_at(secure_broker.addresses["SSL"], "no-pem", kafka__tls=tls), Credentials(ca_pem="no PEM")
    )
    assert seen.reason == "ClientPropertiesInvalid"
    assert "ssl.ca.pem" in seen.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SASL PLAIN mechanism handshake failed: Local: Broker transport failure", "BrokerUnreachable"),
        ("SASL authentication error: Authentication failed: Invalid username or password", "AuthenticationFailed"),
    ],
)
def test_a_connection_that_is_lost_while_logging_in_is_no_refusal(text: str, reason: str) -> None:
    said = KafkaError(KafkaError._AUTHENTICATION, text)
    assert is_fatal(said) == (reason == "AuthenticationFailed")
    assert broker_error(said, "kafka:9092").state.reason == reason
