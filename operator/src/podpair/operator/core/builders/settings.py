"""What the gateway reads: its YAML file (docs/configuration.md names the settings), the files and variables of secrets.

Secrets are never in the ConfigMap: those that the gateway can read from a file are mounted, the others are variables.
"""

from typing import Any, NamedTuple

import yaml

from podpair.common.kafka_properties import property_name
from podpair.operator.core.api.gateway import SHUTDOWN_SECONDS
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.kafka import Topic
from podpair.operator.core.api.scalars import OPERATIONS_PORT, PUBLIC_PORT, seconds, to_int
from podpair.operator.core.builders.naming import Manifest, consumer_group, metadata, requests_topic, results_topic

CONFIG_FOLDER = "/etc/podpair"
CONFIG_FILE = "gateway.yaml"
MODELS_FOLDER = "/etc/podpair-models"
WEIGHTS_FILE = "weights.yaml"
_SECRETS = "/run/secrets/podpair"
RESUME_KEY = "resume-key"
PUBLIC_TLS = "podpair-tls"  # the volume with the public port's certificate


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
        files.append(SecretFiles("podpair-auth", auth_key.name, (auth_key.key,)))
    if tls is not None and tls.ca_ref is not None:
        files.append(SecretFiles("podpair-kafka-ca", tls.ca_ref.name, (tls.ca_ref.key,)))
    if tls is not None and tls.client_certificate_ref is not None:
        files.append(SecretFiles("podpair-kafka-client", tls.client_certificate_ref.name, ("tls.crt", "tls.key")))
    if public is not None:
        files.append(SecretFiles(PUBLIC_TLS, public.certificate_ref.name, ("tls.crt", "tls.key")))
    return files


def config_map(gateway: InferenceGateway) -> Manifest:
    """Build the ConfigMap with the gateway's configuration."""
    text = yaml.safe_dump(gateway_settings(gateway), sort_keys=False, width=120)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(gateway, "-gateway"),
        "data": {CONFIG_FILE: text},
    }


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


def gateway_settings(gateway: InferenceGateway) -> dict[str, Any]:
    """Return the gateway's configuration, nested as in its file."""
    spec = gateway.spec
    wanted, kafka, inference = spec.gateway, spec.kafka, spec.inference
    console: dict[str, Any] = {"enabled": wanted.console}
    if inference.models:
        console["model"] = inference.models[0].name
    return {
        "http": {
            "host": "0.0.0.0",
            "port": PUBLIC_PORT,
            "origins": list(wanted.origins),
            **_proxy_settings(gateway),
            **_public_tls(gateway),
        },
        "operations": {"port": OPERATIONS_PORT},
        "auth": _auth(gateway),
        "sessions": _sessions(gateway),
        "limits": {
            "sessions": wanted.sessions.max,
            "message_bytes": to_int(wanted.limits.message),
            "in_flight": wanted.limits.in_flight,
            "max_direct_in_flight": wanted.limits.max_direct_in_flight,
        },
        "admission": {
            # The same names as there, in snake_case.
            "rules": [rule.model_dump(mode="json", exclude_defaults=True) for rule in wanted.admission.rules],
            "load_shedding": wanted.admission.load_shedding,
        },
        "kafka": _kafka(gateway),
        "requests": _requests(gateway),
        "results": {
            "topic": results_topic(gateway),
            **_width(kafka.results),
            "retention_seconds": _number(kafka.results.retention),
            "users": kafka.results.users,
        },
        "inference": {
            "url": _model(gateway),
            "timeout_seconds": _number(inference.timeout),
        },
        "console": console,
        **_tracing(gateway),
        "log": {"level": wanted.log_level},
        "shutdown_seconds": SHUTDOWN_SECONDS,
    }


def _sessions(gateway: InferenceGateway) -> dict[str, Any]:
    wanted = gateway.spec.gateway
    return {
        "idle_seconds": _number(wanted.sessions.idle),
        "heartbeat_seconds": _number(wanted.sessions.heartbeat),
        "resume_seconds": _number(wanted.sessions.resume),
        "resume_secret_file": resume_files(gateway).file(RESUME_KEY),
        "buffer_bytes": to_int(wanted.sessions.buffer),
        "drain_seconds": _number(wanted.drain),
    }


def _requests(gateway: InferenceGateway) -> dict[str, Any]:
    wanted, kafka = gateway.spec.gateway, gateway.spec.kafka
    return {
        "topic": requests_topic(gateway),
        "group": consumer_group(gateway),
        "group_protocol": kafka.consumer_group.protocol,
        "session_timeout_seconds": _number(kafka.consumer_group.session_timeout),
        **_width(kafka.requests),
        "in_flight": wanted.limits.max_queued_in_flight,
        "max_attempts": wanted.limits.max_attempts,
        "ordering": kafka.requests.ordering,
        "exactly_once": kafka.requests.exactly_once,
        "dead_letters": kafka.dead_letters.enabled,
        "dead_letter_retention_seconds": _number(kafka.dead_letters.retention),
    }


def _kafka(gateway: InferenceGateway) -> dict[str, Any]:
    kafka = gateway.spec.kafka
    return {
        "bootstrap_servers": kafka.bootstrap_servers,
        # The operator creates and manages them; a gateway that starts earlier waits.
        "create_topics": False,
        "await_topics": True,
        "client": _client(gateway),
    }


def _proxy_settings(gateway: InferenceGateway) -> dict[str, Any]:
    """Return the settings for proxies in front of the gateways; empty if there is none, since a new setting rolls the pods."""
    proxies, network = list(gateway.spec.gateway.trusted_proxies), gateway.spec.network
    way_in = network.ingress or network.route
    base = way_in.path.rstrip("/") if way_in is not None else ""
    return ({"trusted_proxies": proxies} if proxies else {}) | ({"base_path": base} if base else {})


def _tracing(gateway: InferenceGateway) -> dict[str, Any]:
    wanted = gateway.spec.tracing
    if wanted is None:
        return {}
    service = f"{gateway.metadata.name}-gateway"
    return {"tracing": {"endpoint": wanted.endpoint, "sample": wanted.sample, "service": service}}


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


def _model(gateway: InferenceGateway) -> str:
    wanted = gateway.spec.inference
    return f"grpc://127.0.0.1:{wanted.grpc_port}" if wanted.protocol == "grpc" else f"http://127.0.0.1:{wanted.port}"


def _public_tls(gateway: InferenceGateway) -> dict[str, str]:
    for files in secret_files(gateway):
        if files.volume == PUBLIC_TLS:
            certificate, key = files.keys
            return {"certificate_file": files.file(certificate), "key_file": files.file(key)}
    return {}


def _auth(gateway: InferenceGateway) -> dict[str, Any]:
    wanted = gateway.spec.gateway.auth
    settings: dict[str, Any] = {
        "leeway_seconds": _number(wanted.leeway),
        "required_claims": list(wanted.required_claims),
        "query_token": wanted.query_token,
    }
    mounted = next((files for files in secret_files(gateway) if files.volume == "podpair-auth"), None)
    if wanted.disabled:
        settings["disabled"] = True
    elif wanted.jwks_url is not None:
        settings["jwks_url"] = wanted.jwks_url
    elif mounted is not None:
        settings["secret_file" if wanted.secret_ref else "public_key_file"] = mounted.file(*mounted.keys)
    named = {"issuer": wanted.issuer, "audience": wanted.audience, "session_claim": wanted.session_claim}
    return settings | {name: value for name, value in named.items() if value is not None}


def _client(gateway: InferenceGateway) -> dict[str, str]:
    """librdkafka's properties: those that follow from tls and sasl, then the user's."""
    kafka = gateway.spec.kafka
    protocol = {(False, False): None, (True, False): "SSL", (False, True): "SASL_PLAINTEXT", (True, True): "SASL_SSL"}
    properties: dict[str, str] = {}
    if name := protocol[kafka.tls is not None, kafka.sasl is not None]:
        properties["security.protocol"] = name
    if kafka.sasl is not None:
        properties["sasl.mechanism"] = kafka.sasl.mechanism
    for files in secret_files(gateway):
        if files.volume == "podpair-kafka-ca":
            properties["ssl.ca.location"] = files.file(*files.keys)
        if files.volume == "podpair-kafka-client":
            certificate, key = files.keys
            properties["ssl.certificate.location"] = files.file(certificate)
            properties["ssl.key.location"] = files.file(key)
    return properties | {property_name(name): value for name, value in kafka.client.items()}


def gateway_variables(gateway: InferenceGateway) -> list[Manifest]:
    """Environment variables of the gateway that come from Secrets and from the pod; what the user sets is the user's."""
    kafka = gateway.spec.kafka
    variables: list[Manifest] = []
    if kafka.sasl is not None:
        for setting, key in (("USERNAME", kafka.sasl.username_key), ("PASSWORD", kafka.sasl.password_key)):
            source = {"secretKeyRef": {"name": kafka.sasl.secret_name, "key": key}}
            variables.append({"name": f"PODPAIR_KAFKA__CLIENT__SASL_{setting}", "valueFrom": source})
    if kafka.consumer_group.static_membership:
        source = {"fieldRef": {"fieldPath": "metadata.name"}}
        variables.append({"name": "PODPAIR_REQUESTS__GROUP_INSTANCE_ID", "valueFrom": source})
    taken = {variable.name for variable in gateway.spec.gateway.env}
    return [variable for variable in variables if variable["name"] not in taken]


def _width(topic: Topic) -> dict[str, int]:
    settings = {"partitions": topic.partitions}
    return settings if topic.replication is None else settings | {"replication": topic.replication}


def _number(duration: str) -> float:
    value = seconds(duration)
    return int(value) if value == int(value) else value
