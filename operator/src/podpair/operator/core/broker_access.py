"""The librdkafka properties of the operator's own client for a resource's broker.

The operator serves many namespaces, so it never follows a property by which one of them could make it read a file, load a
plug-in, run a command or request a URL: certificates go into memory, and of `kafka.client` only what is harmless counts here.
The gateways, in the resource's own pods, follow all of it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from podpair.common.kafka_properties import property_name
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import brokers_from_elsewhere
from podpair.operator.core.credentials import Credentials

_PREFIXES = ("socket.", "broker.address.", "reconnect.backoff.", "metadata.", "topic.metadata.", "api.version.")
_HARMLESS = {
    "allow.auto.create.topics",
    "broker.version.fallback",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "connections.max.idle.ms",
    "enable.ssl.certificate.verification",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.sigalgs.list",
}
# A longer response of the broker is not read. librdkafka wants the other two to be less.
_LONGEST_ANSWER = {"receive.message.max.bytes": "8388608", "fetch.max.bytes": "1000000", "message.max.bytes": "1000000"}
_FIRST = {
    **_LONGEST_ANSWER,
    "client.id": "podpair-operator",
    "reconnect.backoff.max.ms": "1000",
    "socket.connection.setup.timeout.ms": "5000",
}


class BrokerAccess(NamedTuple):
    """An address with credentials; resources with the same access share a client."""

    servers: str
    properties: tuple[tuple[str, str], ...]
    """librdkafka's, sorted. Holds secrets: never logged."""

    def __repr__(self) -> str:
        return f"BrokerAccess({self.servers!r})"


def broker_access(gateway: InferenceGateway, credentials: Credentials) -> BrokerAccess:
    """Return how the operator reaches the broker of a resource."""
    kafka, servers = gateway.spec.kafka, brokers_from_elsewhere(gateway)
    protocol = ("SASL_" if kafka.sasl is not None else "") + ("SSL" if kafka.tls is not None else "PLAINTEXT")
    properties: dict[str, str | None] = {
        **_FIRST,
        "bootstrap.servers": servers,
        "security.protocol": protocol,
        "sasl.mechanism": kafka.sasl.mechanism if kafka.sasl is not None else None,
        "sasl.username": credentials.username,
        "sasl.password": credentials.password,
        "ssl.ca.pem": credentials.ca_pem,
        "ssl.certificate.pem": credentials.certificate_pem,
        "ssl.key.pem": credentials.key_pem,
        **allowed_properties(kafka.client),
    }
    given = sorted((name, value) for name, value in properties.items() if value is not None)
    return BrokerAccess(servers, tuple(given))


def allowed_properties(client: Mapping[str, str]) -> dict[str, str]:
    """Return the properties of a resource's `kafka.client` that the operator's client follows too."""
    named = {property_name(key): value for key, value in client.items()}
    return {name: value for name, value in named.items() if name in _HARMLESS or name.startswith(_PREFIXES)}
