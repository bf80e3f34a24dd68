"""What an installation forbids resources: to show credentials to any broker, and to set some fields of their pods.

Whoever may create an InferenceGateway names Secrets, the address that they are shown to, and most of a pod. Pure functions of the
resource, and of the labels of the Secrets that it names; each refusal says what to do about it.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.inference import PodTemplate
from podpair.operator.core.broker_access import broker_access
from podpair.operator.core.builders.pods import pod_template
from podpair.operator.core.credentials import Credentials

LABEL, LABELLED = "podpair.dev/kafka-credentials", "true"
"""On a Secret: it may be shown to brokers that resources of its namespace name."""
_ENCRYPTED = {"SSL", "SASL_SSL"}
_NOT_SENT = ("SCRAM-", "GSSAPI")  # mechanisms that prove that one knows the password, without sending it
_UNCHECKED = {"false", "0", "f", "no", "n", "off"}
_DEFAULT_MECHANISM = "GSSAPI"


class Policy(NamedTuple):
    """What an installation allows."""

    allow_readable_credentials: bool = False
    """Passwords may be sent without TLS, or to a broker whose certificate isn't checked."""
    secrets: tuple[str, ...] = ()
    """Secrets that may be shown without the label: NAMESPACE/NAME, where `*` stands for anything."""
    forbidden_pod_fields: tuple[str, ...] = ()
    """Fields of a pod template that resources may not set, as `spec.volumes.hostPath`: lists are passed through, and `*` stands
    for any field."""


def credential_faults(gateway: InferenceGateway, labels: Mapping[str, Mapping[str, str]], policy: Policy) -> list[str]:
    """Return why the resource's credentials may not be shown to its broker, a sentence each; none: they may.

    `labels` are those of the Secrets by name; Secrets that aren't there are left out.
    """
    refused = []
    if not policy.allow_readable_credentials and (why := _readable(gateway)) is not None:
        refused.append(
            f"{why}: set spec.kafka.tls, or a SCRAM mechanism in spec.kafka.sasl, or have the installation allow it"
            " (chart podpair-operator, brokers.allowReadableCredentials: true)"
        )
    namespace = gateway.metadata.namespace
    for secret, field in _secrets(gateway):
        named = any(fnmatchcase(f"{namespace}/{secret}", one) for one in policy.secrets)
        if secret in labels and not named and labels[secret].get(LABEL) != LABELLED:
            refused.append(
                f"Secret {namespace}/{secret} may not be shown to a broker ({field} names it): label it (kubectl label"
                f" secret {secret} -n {namespace} {LABEL}={LABELLED}), or have the installation name it (chart"
                " podpair-operator, brokers.secrets)"
            )
    return refused


def pod_field_faults(gateway: InferenceGateway, policy: Policy) -> list[tuple[str, str]]:
    """Return (the field of the resource, why it may not be set so); none: all may.

    What counts is the pod that comes of it: what `podTemplate` adds, changes or takes away at a forbidden field.
    """
    if not policy.forbidden_pod_fields:
        return []
    inference, found = gateway.spec.inference, []
    plain = inference.model_copy(update={"pod_template": PodTemplate()})
    without = gateway.model_copy(update={"spec": gateway.spec.model_copy(update={"inference": plain})})
    before, after = pod_template(without, "", {}), pod_template(gateway, "", {})
    volumes = {"spec": {"volumes": [one.source for one in inference.volumes]}}
    for path in policy.forbidden_pod_fields:
        parts = path.split(".")
        if list(_at(before, parts)) != list(_at(after, parts)):
            found.append(("spec.inference.podTemplate", path))
        if any(True for _ in _at(volumes, parts)):
            found.append(("spec.inference.volumes", path))
    return [
        (
            field,
            f"{field} sets {path} of the pods, which this installation forbids: leave it out, or have the installation allow"
            " it (chart podpair-operator, podTemplate.forbidden)",
        )
        for field, path in found
    ]


def policy_faults(gateway: InferenceGateway, policy: Policy) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (place, fault) for what can be known without a cluster: the labels of Secrets can't."""
    for field, message in pod_field_faults(gateway, policy):
        yield tuple(field.split(".")), message
    for message in credential_faults(gateway, {}, policy):
        yield ("spec", "kafka"), message


def _readable(gateway: InferenceGateway) -> str | None:
    """Return why somebody else than the broker could read the gateways' credentials; None: nobody could."""
    access = broker_access(gateway, Credentials())
    properties = {name: value.strip() for name, value in access.properties}
    protocol = properties["security.protocol"].upper()
    if not protocol.startswith("SASL_"):
        return None
    mechanisms = [properties[name] for name in ("sasl.mechanism", "sasl.mechanisms") if name in properties]
    sent = [one for one in mechanisms or [_DEFAULT_MECHANISM] if not one.upper().startswith(_NOT_SENT)]
    if not sent:
        return None
    what = f"SASL {sent[0].upper()} sends its credentials in the clear"
    if protocol not in _ENCRYPTED:
        return f"{what} to {access.servers}, and there is no TLS"
    if properties.get("enable.ssl.certificate.verification", "true").lower() in _UNCHECKED:
        return f"{what} to whoever answers at {access.servers}, for enable.ssl.certificate.verification is off"
    return None


def _secrets(gateway: InferenceGateway) -> Iterator[tuple[str, str]]:
    """Return (Secret, the field that names it) for Secrets with credentials; a CA's certificate is none."""
    kafka = gateway.spec.kafka
    if kafka.sasl is not None:
        yield kafka.sasl.secret_name, "spec.kafka.sasl"
    if kafka.tls is not None and kafka.tls.client_certificate_ref is not None:
        yield kafka.tls.client_certificate_ref.name, "spec.kafka.tls.clientCertificateRef"


def _at(there: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield the values at a path; lists are passed through."""
    if not path:
        yield there
    elif isinstance(there, (list, tuple)):
        for one in there:
            yield from _at(one, path)
    elif isinstance(there, Mapping):
        for name in there if path[0] == "*" else (path[0],):
            if name in there:
                yield from _at(there[name], path[1:])
