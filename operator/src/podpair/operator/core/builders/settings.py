"""What the containers read besides the gateway's YAML file: files and variables of secrets, the models' weights.

Secrets are never in the ConfigMap: those that the gateway can read from a file are mounted, the others are variables.
"""

from typing import NamedTuple

import yaml

from podpair.common.kafka_properties import property_name
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import Manifest, metadata

CONFIG_FOLDER = "/etc/podpair"
CONFIG_FILE = "gateway.yaml"
MODELS_FOLDER = "/etc/podpair-models"
WEIGHTS_FILE = "weights.yaml"
_SECRETS = "/run/secrets/podpair"
RESUME_KEY = "resume-key"
# Volumes.
AMQP_URL = "podpair-amqp-url"
AMQP_CA = "podpair-amqp-ca"
AMQP_CLIENT = "podpair-amqp-client"
DELIVERIES_EMAIL_CA = "podpair-email-ca"
DELIVERIES_EMAIL_PASSWORD = "podpair-email-password"  # noqa: S105 - a volume's name
DELIVERIES_WEB_PUSH = "podpair-web-push"
AUTH_KEY = "podpair-auth"
KAFKA_CA = "podpair-kafka-ca"
KAFKA_CLIENT = "podpair-kafka-client"
PUBLIC_TLS = "podpair-tls"


class SecretFiles(NamedTuple):
    """Keys of one Secret, mounted as files."""

    volume: str
    secret: str
    keys: tuple[str, ...]

    @property
    def folder(self) -> str:
        return f"{_SECRETS}/{self.volume}"

    def file(self, key: str) -> str:
        return f"{self.folder}/{key}"


def resume_files(gateway: InferenceGateway) -> SecretFiles:
    """Return the files with the key that signs resume tokens."""
    return SecretFiles("podpair-resume", f"{gateway.metadata.name}-resume", (RESUME_KEY,))


def secret_files(gateway: InferenceGateway) -> list[SecretFiles]:
    """Return all Secrets that the gateway reads as files."""
    files = [resume_files(gateway)]
    auth, tls, public = gateway.spec.gateway.auth, gateway.spec.kafka.tls, gateway.spec.gateway.tls
    if auth_key := auth.secret_ref or auth.public_key_ref:
        files.append(SecretFiles(AUTH_KEY, auth_key.name, (auth_key.key,)))
    if tls is not None and tls.ca_ref is not None:
        files.append(SecretFiles(KAFKA_CA, tls.ca_ref.name, (tls.ca_ref.key,)))
    if tls is not None and tls.client_certificate_ref is not None:
        files.append(SecretFiles(KAFKA_CLIENT, tls.client_certificate_ref.name, ("tls.crt", "tls.key")))
    if public is not None:
        files.append(SecretFiles(PUBLIC_TLS, public.certificate_ref.name, ("tls.crt", "tls.key")))
    return files + _amqp_files(gateway) + _deliveries_files(gateway)


def _amqp_files(gateway: InferenceGateway) -> list[SecretFiles]:
    amqp = gateway.spec.amqp
    if amqp is None:
        return []
    files = [SecretFiles(AMQP_URL, amqp.url_ref.name, (amqp.url_ref.key,))]
    if amqp.ca_ref is not None:
        files.append(SecretFiles(AMQP_CA, amqp.ca_ref.name, (amqp.ca_ref.key,)))
    if amqp.client_certificate_ref is not None:
        files.append(SecretFiles(AMQP_CLIENT, amqp.client_certificate_ref.name, ("tls.crt", "tls.key")))
    return files


def _deliveries_files(gateway: InferenceGateway) -> list[SecretFiles]:
    deliveries = gateway.spec.deliveries
    if deliveries is None:
        return []
    email, push = deliveries.email, deliveries.web_push
    keys = {
        DELIVERIES_EMAIL_CA: email.ca_ref if email is not None else None,
        DELIVERIES_EMAIL_PASSWORD: email.login.password_ref if email is not None and email.login is not None else None,
        DELIVERIES_WEB_PUSH: push.private_key_ref if push is not None else None,
    }
    return [SecretFiles(volume, one.name, (one.key,)) for volume, one in keys.items() if one is not None]


def weights(gateway: InferenceGateway) -> dict[str, dict[str, int]]:
    """Model → version → weight, for the models that say so."""
    return {
        model.name: {one.version: one.weight for one in model.versions}
        for model in gateway.spec.inference.models
        if model.versions
    }


def models_config_map(gateway: InferenceGateway) -> list[Manifest]:
    """Build what podpair-inference reads while it runs: a change reaches the pods within a minute, and rolls none."""
    wanted = weights(gateway)
    if not wanted:
        return []
    text = yaml.safe_dump(wanted, sort_keys=False)
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(gateway, "-models"),
            "data": {WEIGHTS_FILE: text},
        }
    ]


def inference_variables(gateway: InferenceGateway) -> list[Manifest]:
    """Environment variables of podpair-inference that follow from the resource; what the user sets is the user's."""
    wanted, tracing = gateway.spec.inference, gateway.spec.tracing
    if not wanted.is_podpair:
        return []
    # It listens on the ports that the gateway calls; other images have this in their arguments.
    variables = {"PODPAIR_SERVER__PORT": str(wanted.port), "PODPAIR_GRPC__PORT": str(wanted.grpc_port)}
    if weights(gateway):
        variables["PODPAIR_MODELS__WEIGHTS_FILE"] = f"{MODELS_FOLDER}/{WEIGHTS_FILE}"
    if tracing is not None:
        variables["PODPAIR_TRACING__ENDPOINT"] = tracing.endpoint
        variables["PODPAIR_TRACING__SERVICE"] = f"{gateway.metadata.name}-inference"
    taken = {variable.name for variable in wanted.env}
    return [{"name": name, "value": value} for name, value in variables.items() if name not in taken]


def gateway_variables(gateway: InferenceGateway) -> list[Manifest]:
    """Environment variables of the gateway that come from Secrets and from the pod; what the user sets is the user's."""
    kafka = gateway.spec.kafka
    variables: list[Manifest] = []
    own = {property_name(name) for name in kafka.client}  # a variable would come over the user's own
    if kafka.sasl is not None:
        for setting, key in (("USERNAME", kafka.sasl.username_key), ("PASSWORD", kafka.sasl.password_key)):
            if f"sasl.{setting.lower()}" in own:
                continue
            source = {"secretKeyRef": {"name": kafka.sasl.secret_name, "key": key}}
            variables.append({"name": f"PODPAIR_KAFKA__CLIENT__SASL_{setting}", "valueFrom": source})
    if kafka.consumer_group.static_membership:
        source = {"fieldRef": {"fieldPath": "metadata.name"}}
        variables.append({"name": "PODPAIR_REQUESTS__GROUP_INSTANCE_ID", "valueFrom": source})
    taken = {variable.name for variable in gateway.spec.gateway.env}
    return [variable for variable in variables if variable["name"] not in taken]
