"""What a broker is shown: user, password, certificates, from the Secrets that a resource names. Never logged, never in a repr."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import GATEWAY_LABEL, Manifest, labels
from podpair.operator.core.kafka_state import Reason

_CERTIFICATE, _KEY = "tls.crt", "tls.key"
FINALIZER = "podpair.dev/topics"
"""On what must not go before the topics: the resource, and the copy of its credentials."""
_COPY = "podpair.dev/broker-credentials"  # labels that copy
_SERVERS = "servers"  # the key of the addresses that it may be shown to


class MissingSecret(Exception):
    """A Secret, or one of its keys, isn't there. The text says which, who wants it, and what to do."""

    reason = Reason.SECRET_MISSING


class CredentialsRefused(MissingSecret):
    """The installation's policy doesn't allow to show them to this broker. The text says why, and what to do."""

    reason = Reason.CREDENTIALS_REFUSED


@dataclass(frozen=True)
class Credentials:
    """None: not needed."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_pem: str | None = field(default=None, repr=False)
    """Certificates of the authority that the broker's is signed by."""
    certificate_pem: str | None = field(default=None, repr=False)
    """Who the operator is, with `key_pem`."""
    key_pem: str | None = field(default=None, repr=False)


def read_credentials(gateway: InferenceGateway, secrets: Mapping[str, Mapping[str, bytes]]) -> Credentials:
    """Read credentials from Secrets, given by name as their decoded `data`; Secrets that don't exist are left out.

    Raises MissingSecret, which names all that is missing.
    """
    found: dict[str, str] = {}
    missing: list[str] = []
    for member, secret, key, field_name in _wanted(gateway):
        where = f"{gateway.metadata.namespace}/{secret}"
        if secret not in secrets:
            missing.append(f"Secret {where} not found ({field_name} names it): create it with key {key}")
        elif key not in secrets[secret]:
            has = ", ".join(sorted(secrets[secret])) or "none"
            missing.append(f"Secret {where} has no key {key} ({field_name} names it; it has {has}): add the key")
        else:
            try:
                found[member] = secrets[secret][key].decode()
            except UnicodeDecodeError:
                missing.append(f"Secret {where}: key {key} is not text ({field_name} names it): write it anew")
    if missing:
        raise MissingSecret("; ".join(missing))
    return Credentials(**found)


def _wanted(gateway: InferenceGateway) -> list[tuple[str, str, str, str]]:
    """Return (member of Credentials, Secret, key, the field of the resource that names it)."""
    sasl, tls = gateway.spec.kafka.sasl, gateway.spec.kafka.tls
    wanted: list[tuple[str, str, str, str]] = []
    if sasl is not None:
        wanted.append(("username", sasl.secret_name, sasl.username_key, "spec.kafka.sasl"))
        wanted.append(("password", sasl.secret_name, sasl.password_key, "spec.kafka.sasl"))
    if tls is not None and tls.ca_ref is not None:
        wanted.append(("ca_pem", tls.ca_ref.name, tls.ca_ref.key, "spec.kafka.tls.caRef"))
    if tls is not None and tls.client_certificate_ref is not None:
        name = tls.client_certificate_ref.name
        wanted.append(("certificate_pem", name, _CERTIFICATE, "spec.kafka.tls.clientCertificateRef"))
        wanted.append(("key_pem", name, _KEY, "spec.kafka.tls.clientCertificateRef"))
    return wanted


def credential_copy_name(resource: str) -> str:
    """Return the name of the Secret that holds the copy of a resource's credentials."""
    return f"{resource}-broker"


def credential_copy(gateway: InferenceGateway, credentials: Credentials) -> Manifest:
    """Build a Secret with the operator's own copy of credentials, for the end of a resource."""
    given = {name: value for name, value in asdict(credentials).items() if value is not None}
    given[_SERVERS] = gateway.spec.kafka.bootstrap_servers
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": credential_copy_name(gateway.metadata.name),
            "namespace": gateway.metadata.namespace,
            "labels": {**labels(gateway), _COPY: "true"},
            "finalizers": [FINALIZER],
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in given.items()},
    }


def is_credential_copy(secret: Mapping[str, Any], resource: str) -> bool:
    """Return whether a Secret is the operator's copy of a resource's credentials."""
    marked = secret["metadata"].get("labels") or {}
    named = secret["metadata"]["name"] == credential_copy_name(resource)
    return named and _COPY in marked and marked.get(GATEWAY_LABEL) == resource


def copied_credentials(secret: Mapping[str, Any], gateway: InferenceGateway) -> Credentials | None:
    """Return what a copy holds for the resource's broker; None: it can't be read, or it is of another broker."""
    known = {one.name for one in fields(Credentials)}
    try:
        found = {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}
    except (binascii.Error, UnicodeDecodeError):
        return None
    if found.pop(_SERVERS, None) != gateway.spec.kafka.bootstrap_servers:
        return None
    return Credentials(**{name: value for name, value in found.items() if name in known})
