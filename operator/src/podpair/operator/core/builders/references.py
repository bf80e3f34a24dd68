"""The Secrets and ConfigMaps that a resource names: a change in one rolls the pods, and a missing one is reported by name."""

from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.settings import (
    AMQP_CA,
    AMQP_CLIENT,
    AMQP_URL,
    DELIVERIES_EMAIL_CA,
    DELIVERIES_EMAIL_PASSWORD,
    DELIVERIES_WEB_PUSH,
    PUBLIC_TLS,
    resume_files,
    secret_files,
)


class ObjectReference(NamedTuple):
    """An object that the resource names, and what of it is needed."""

    kind: str
    """Secret or ConfigMap."""
    name: str
    keys: tuple[str, ...]
    """Keys that it must have."""
    field: str
    """Where it is named."""
    optional: bool = False
    """The pods start without it."""
    rolls: bool = True
    """A change in it rolls the pods."""


def references_of(gateway: InferenceGateway) -> list[ObjectReference]:
    """Return what the user names: the resume key, which is the operator's own, is not among them."""
    return [*_of_the_gateway(gateway), *_of_the_model(gateway)]


def missing(needed: ObjectReference, namespace: str, held: Container[str] | None) -> str | None:
    """Return what an object is missing, and what to do about it; None: nothing. `held` are its keys, None: it doesn't exist."""
    if needed.optional:
        return None
    where = f"{needed.kind} {namespace}/{needed.name}"
    if held is None:
        keys = f" with {'key' if len(needed.keys) == 1 else 'keys'} {', '.join(needed.keys)}" if needed.keys else ""
        return f"{where} not found ({needed.field} names it): create it{keys}"
    lacking = [key for key in needed.keys if key not in held]
    if lacking:
        return f"{where} has no {' and no '.join(lacking)} ({needed.field} needs it): add the key"
    return None


def _of_the_gateway(gateway: InferenceGateway) -> Iterator[ObjectReference]:
    fields = {
        "podpair-auth": "spec.gateway.auth",
        "podpair-kafka-ca": "spec.kafka.tls.caRef",
        "podpair-kafka-client": "spec.kafka.tls.clientCertificateRef",
        AMQP_URL: "spec.amqp.urlRef",
        AMQP_CA: "spec.amqp.caRef",
        AMQP_CLIENT: "spec.amqp.clientCertificateRef",
        DELIVERIES_EMAIL_CA: "spec.deliveries.email.caRef",
        DELIVERIES_EMAIL_PASSWORD: "spec.deliveries.email.login.passwordRef",
        DELIVERIES_WEB_PUSH: "spec.deliveries.webPush.privateKeyRef",
        PUBLIC_TLS: "spec.gateway.tls.certificateRef",
    }
    own = resume_files(gateway).volume
    for files in secret_files(gateway):
        if files.volume != own:
            # The gateway takes a renewed certificate itself, and its clients stay connected.
            rolls = files.volume != PUBLIC_TLS
            yield ObjectReference("Secret", files.secret, files.keys, fields[files.volume], rolls=rolls)
    if (sasl := gateway.spec.kafka.sasl) is not None:
        yield ObjectReference("Secret", sasl.secret_name, (sasl.username_key, sasl.password_key), "spec.kafka.sasl")
    for variable in gateway.spec.gateway.env:
        yield from _of_variable(variable.value_from, f"spec.gateway.env {variable.name}")


def _of_the_model(gateway: InferenceGateway) -> Iterator[ObjectReference]:
    wanted = gateway.spec.inference
    for secret in wanted.image_pull_secrets:
        yield ObjectReference("Secret", secret.name, (), "spec.inference.imagePullSecrets", rolls=False)
    for variable in wanted.env:
        yield from _of_variable(variable.value_from, f"spec.inference.env {variable.name}")
    for volume in wanted.volumes:
        field = f"spec.inference.volumes {volume.name}"
        for kind, source, member in (("Secret", "secret", "secretName"), ("ConfigMap", "configMap", "name")):
            found = volume.source.get(source)
            if isinstance(found, Mapping) and isinstance(found.get(member), str):
                keys = [item.get("key") for item in found.get("items") or [] if isinstance(item, Mapping)]
                yield ObjectReference(
                    kind,
                    found[member],
                    tuple(key for key in keys if isinstance(key, str)),
                    field,
                    bool(found.get("optional")),
                )


def _of_variable(source: Mapping[str, Any] | None, field: str) -> Iterator[ObjectReference]:
    for kind, member in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
        found = (source or {}).get(member)
        if isinstance(found, Mapping) and isinstance(found.get("name"), str) and isinstance(found.get("key"), str):
            yield ObjectReference(kind, found["name"], (found["key"],), field, bool(found.get("optional")))
