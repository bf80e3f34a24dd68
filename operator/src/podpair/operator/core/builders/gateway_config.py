"""The gateway's configuration, as the gateway's own model, and the ConfigMap with the file that the gateway loads.

Invariant: what the model doesn't take is a fault of the resource before anything is applied (`core/config_faults.py`): no
resource becomes pods whose gateway refuses its configuration.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from podpair.common.gateway_config.amqp import Amqp
from podpair.common.gateway_config.cache import Cache, CachedModel
from podpair.common.gateway_config.channels import Channels, Presence
from podpair.common.gateway_config.clients import Admission, Auth, Http, Limits, Operations, Sessions
from podpair.common.gateway_config.deliveries import Deliveries
from podpair.common.gateway_config.fields import Section
from podpair.common.gateway_config.kafka import Kafka, Requests, Results
from podpair.common.gateway_config.model import Config, Console, Inference, Log, ModelTimeout, Tracing
from podpair.common.gateway_config.workflows import Workflows
from podpair.common.kafka_properties import property_name
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.scalars import OPERATIONS_PORT, PUBLIC_PORT, seconds, to_int
from podpair.operator.core.builders.naming import (
    Manifest,
    amqp_queue,
    cache_topic,
    consumer_group,
    deliveries_topic,
    metadata,
    presence_topic,
    requests_topic,
    results_topic,
    workflows_topic,
)
from podpair.operator.core.builders.settings import (
    AMQP_CA,
    AMQP_CLIENT,
    AMQP_URL,
    AUTH_KEY,
    CONFIG_FILE,
    DELIVERIES_EMAIL_CA,
    DELIVERIES_EMAIL_PASSWORD,
    DELIVERIES_WEB_PUSH,
    KAFKA_CA,
    KAFKA_CLIENT,
    PUBLIC_TLS,
    RESUME_KEY,
    resume_files,
    secret_files,
)


def config_map(gateway: InferenceGateway) -> Manifest:
    """Build the ConfigMap with the gateway's configuration. Raises ValidationError."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(gateway, "-gateway"),
        "data": {CONFIG_FILE: yaml.safe_dump(contents(gateway_config(gateway)), sort_keys=False, width=120)},
    }


def contents(config: Config) -> Any:
    """Return what the file says: all that the operator decides, in the model's order; the rest is the gateway's own to know."""
    return _whole(config.model_dump(mode="json", exclude_unset=True, exclude_none=True))


def _whole(value: Any) -> Any:
    """Return a value with its whole numbers as people write them: 30, not 30.0."""
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def gateway_config(gateway: InferenceGateway) -> Config:
    """Build the gateway's configuration. Raises ValidationError if the gateway would refuse it."""
    return _together(gateway, {name: build(gateway) for name, build in _SECTIONS.items()})


def refused_settings(gateway: InferenceGateway) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what the gateway would refuse: the place of a setting in its configuration, and why."""
    sections: dict[str, Section | None] = {}
    for name, build in _SECTIONS.items():
        try:
            sections[name] = build(gateway)
        except ValidationError as error:
            yield from (((name, *one["loc"]), one["msg"]) for one in error.errors())
    if len(sections) == len(_SECTIONS):
        try:
            _together(gateway, sections)
        except ValidationError as error:
            yield from ((one["loc"], one["msg"]) for one in error.errors())


def _together(gateway: InferenceGateway, sections: Mapping[str, Section | None]) -> Config:
    wanted = {name: section for name, section in sections.items() if section is not None}
    return Config.model_validate({**wanted, "shutdown_seconds": seconds(gateway.spec.gateway.shutdown_timeout)})


def _http(gateway: InferenceGateway) -> Http:
    return Http(
        host="0.0.0.0",
        port=PUBLIC_PORT,
        origins=gateway.spec.gateway.origins,
        **_behind_proxies(gateway),
        **_public_tls(gateway),
    )


def _behind_proxies(gateway: InferenceGateway) -> dict[str, Any]:
    """Return the settings for proxies in front of the gateways; empty if there is none, since a new setting rolls the pods."""
    proxies, network = gateway.spec.gateway.trusted_proxies, gateway.spec.network
    way_in = network.ingress or network.route
    base = way_in.path.rstrip("/") if way_in is not None else ""
    return ({"trusted_proxies": proxies} if proxies else {}) | ({"base_path": base} if base else {})


def _public_tls(gateway: InferenceGateway) -> dict[str, Any]:
    for files in secret_files(gateway):
        if files.volume == PUBLIC_TLS:
            certificate, key = files.keys
            return {"certificate_file": files.file(certificate), "key_file": files.file(key)}
    return {}


def _operations(gateway: InferenceGateway) -> Operations:
    return Operations(port=OPERATIONS_PORT)


def _auth(gateway: InferenceGateway) -> Auth:
    wanted = gateway.spec.gateway.auth
    mounted = next((files for files in secret_files(gateway) if files.volume == AUTH_KEY), None)
    verified_by: dict[str, Any] = {}
    if wanted.disabled:
        verified_by["disabled"] = True
    elif wanted.jwks_url is not None:
        verified_by["jwks_url"] = wanted.jwks_url
    elif mounted is not None:
        verified_by["secret_file" if wanted.secret_ref else "public_key_file"] = mounted.file(*mounted.keys)
    return Auth(
        issuer=wanted.issuer,
        audience=wanted.audience,
        leeway_seconds=seconds(wanted.leeway),
        required_claims=wanted.required_claims,
        session_claim=wanted.session_claim,
        query_token=wanted.query_token,
        **verified_by,
    )


def _sessions(gateway: InferenceGateway) -> Sessions:
    wanted = gateway.spec.gateway
    return Sessions(
        idle_seconds=seconds(wanted.sessions.idle),
        heartbeat_seconds=seconds(wanted.sessions.heartbeat),
        resume_secret_file=Path(resume_files(gateway).file(RESUME_KEY)),
        resume_seconds=seconds(wanted.sessions.resume),
        drain_seconds=seconds(wanted.drain),
        buffer_bytes=to_int(wanted.sessions.buffer),
    )


def _limits(gateway: InferenceGateway) -> Limits:
    wanted = gateway.spec.gateway
    return Limits(
        sessions=wanted.sessions.max,
        message_bytes=to_int(wanted.limits.message),
        in_flight=wanted.limits.in_flight,
        max_direct_in_flight=wanted.limits.max_direct_in_flight,
    )


def _admission(gateway: InferenceGateway) -> Admission:
    wanted = gateway.spec.gateway.admission
    # A rule's fields have the same names at the gateway; what a rule doesn't say stays out of the file.
    rules = [rule.model_dump(exclude_defaults=True) for rule in wanted.rules]
    return Admission.model_validate({"rules": rules, "load_shedding": wanted.load_shedding})


def _kafka(gateway: InferenceGateway) -> Kafka:
    return Kafka(
        bootstrap_servers=gateway.spec.kafka.bootstrap_servers,
        client=_client(gateway),
        # The operator creates and manages them; a gateway that starts earlier waits.
        create_topics=False,
        await_topics=True,
    )


def _client(gateway: InferenceGateway) -> dict[str, str | int | float | bool]:
    """Return librdkafka's properties: those that follow from tls and sasl, then the user's."""
    kafka = gateway.spec.kafka
    protocol = {(False, False): None, (True, False): "SSL", (False, True): "SASL_PLAINTEXT", (True, True): "SASL_SSL"}
    properties: dict[str, str | int | float | bool] = {}
    if name := protocol[kafka.tls is not None, kafka.sasl is not None]:
        properties["security.protocol"] = name
    if kafka.sasl is not None:
        properties["sasl.mechanism"] = kafka.sasl.mechanism
    for files in secret_files(gateway):
        if files.volume == KAFKA_CA:
            properties["ssl.ca.location"] = files.file(*files.keys)
        if files.volume == KAFKA_CLIENT:
            certificate, key = files.keys
            properties["ssl.certificate.location"] = files.file(certificate)
            properties["ssl.key.location"] = files.file(key)
    return properties | {property_name(name): value for name, value in kafka.client.items()}


def _requests(gateway: InferenceGateway) -> Requests:
    limits, kafka, amqp = gateway.spec.gateway.limits, gateway.spec.kafka, gateway.spec.amqp
    # What the file has had without it stays out: a new setting rolls the pods.
    added: dict[str, Any] = {} if amqp is None else {"source": amqp.source}
    if kafka.requests.reply_topics:
        added["reply_topics"] = kafka.requests.reply_topics
    return Requests(
        **added,
        topic=requests_topic(gateway),
        group=consumer_group(gateway),
        group_protocol=kafka.consumer_group.protocol,
        session_timeout_seconds=seconds(kafka.consumer_group.session_timeout),
        partitions=kafka.requests.partitions,
        replication=kafka.requests.replication,
        in_flight=limits.max_queued_in_flight,
        max_attempts=limits.max_attempts,
        exactly_once=kafka.requests.exactly_once,
        ordering=kafka.requests.ordering,
        dead_letters=kafka.dead_letters.enabled,
        dead_letter_retention_seconds=seconds(kafka.dead_letters.retention),
    )


def _amqp(gateway: InferenceGateway) -> Amqp | None:
    wanted = gateway.spec.amqp
    if wanted is None:
        return None
    stated = wanted.model_dump(
        exclude={"url_ref", "ca_ref", "client_certificate_ref", "source", "queue", "message_ttl"}, exclude_none=True
    )
    if wanted.message_ttl is not None:
        stated["message_ttl_seconds"] = seconds(wanted.message_ttl)
    for files in secret_files(gateway):
        if files.volume == AMQP_URL:
            stated["url_file"] = files.file(*files.keys)
        elif files.volume == AMQP_CA:
            stated["ca_file"] = files.file(*files.keys)
        elif files.volume == AMQP_CLIENT:
            stated["certificate_file"], stated["key_file"] = (files.file(key) for key in files.keys)
    return Amqp(queue=amqp_queue(gateway), **stated)


def _results(gateway: InferenceGateway) -> Results:
    wanted = gateway.spec.kafka.results
    return Results(
        topic=results_topic(gateway),
        partitions=wanted.partitions,
        replication=wanted.replication,
        retention_seconds=seconds(wanted.retention),
        users=wanted.users,
    )


def _inference(gateway: InferenceGateway) -> Inference:
    wanted = gateway.spec.inference
    grpc = wanted.protocol == "grpc"
    timeouts = [
        ModelTimeout(model=model.name, timeout_seconds=seconds(model.timeout))
        for model in wanted.models
        if model.timeout is not None
    ]
    # As for requests: without them the file stays as it was.
    added: dict[str, Any] = {"models": tuple(timeouts)} if timeouts else {}
    return Inference(
        **added,
        url=f"grpc://127.0.0.1:{wanted.grpc_port}" if grpc else f"http://127.0.0.1:{wanted.port}",
        timeout_seconds=seconds(wanted.timeout),
    )


def _cache(gateway: InferenceGateway) -> Cache | None:
    wanted = gateway.spec.gateway.cache
    if wanted is None:
        return None
    models = [
        CachedModel(model=one.model, scope=one.scope, ttl_seconds=seconds(one.ttl), max_bytes=to_int(one.memory))
        for one in wanted.models
    ]
    return Cache(models=tuple(models), topic=cache_topic(gateway), lease_seconds=seconds(wanted.lease))


def _workflows(gateway: InferenceGateway) -> Workflows | None:
    wanted = gateway.spec.gateway.workflows
    if wanted is None:
        return None
    return Workflows(
        enabled=True,
        topic=workflows_topic(gateway),
        max_instances=wanted.max_instances,
        max_calls=wanted.max_calls,
        remember_seconds=seconds(wanted.remember),
    )


_HEARTBEATS = 3.2  # in a lease, as by the gateway's defaults


def _channels(gateway: InferenceGateway) -> Channels | None:
    wanted = gateway.spec.gateway.channels
    if wanted is None:
        return None
    # A rule's fields have the same names at the gateway; what a rule doesn't say stays out of the file.
    rules = [rule.model_dump(exclude_defaults=True) for rule in wanted.rules]
    more = {name: getattr(wanted, name) for name in ("automatic", "per_session", "publishes_per_second")}
    return Channels.model_validate({"enabled": True, "rules": rules} | more)


def _presence(gateway: InferenceGateway) -> Presence | None:
    wanted = gateway.spec.gateway.presence
    if wanted is None:
        return None
    rules = [rule.model_dump(exclude_defaults=True) for rule in wanted.rules]
    lease = seconds(wanted.lease)
    times = {"heartbeat_seconds": lease / _HEARTBEATS, "lease_seconds": lease}
    about = {"topic": presence_topic(gateway), "watches": wanted.watches}
    return Presence.model_validate({"enabled": True, "rules": rules} | about | times)


def _deliveries(gateway: InferenceGateway) -> Deliveries | None:
    wanted = gateway.spec.deliveries
    if wanted is None:
        return None
    plain = {"rules", "replication", "per_host", "in_flight", "slack_hosts", "allow_http", "ports", "allowed_networks"}
    stated = wanted.model_dump(include=plain, exclude_none=True)
    files = {one.volume: one.file(one.keys[0]) for one in secret_files(gateway)}
    if wanted.email is not None:
        email = wanted.email.model_dump(exclude={"ca_ref", "login"}, exclude_none=True)
        if wanted.email.login is not None:
            email["username"] = wanted.email.login.username
        named = {"ca_file": files.get(DELIVERIES_EMAIL_CA), "password_file": files.get(DELIVERIES_EMAIL_PASSWORD)}
        stated["email"] = email | {name: file for name, file in named.items() if file is not None}
    if wanted.web_push is not None:
        stated["web_push"] = {
            "private_key_file": files[DELIVERIES_WEB_PUSH], "contact": wanted.web_push.contact,
            "ttl_seconds": int(seconds(wanted.web_push.ttl)),
        }  # fmt: skip
    return Deliveries(
        enabled=True,
        topic=deliveries_topic(gateway),
        timeout_seconds=seconds(wanted.timeout),
        absent_seconds=seconds(wanted.absent_after),
        max_age_seconds=seconds(wanted.max_age),
        max_ttl_seconds=seconds(wanted.max_ttl),
        dead_letter_retention_seconds=seconds(wanted.dead_letter_retention),
        **stated,
    )


def _console(gateway: InferenceGateway) -> Console:
    enabled, models = gateway.spec.gateway.console, gateway.spec.inference.models
    return Console(enabled=enabled, model=models[0].name) if models else Console(enabled=enabled)


def _log(gateway: InferenceGateway) -> Log:
    return Log(level=gateway.spec.gateway.log_level)


def _tracing(gateway: InferenceGateway) -> Tracing | None:
    wanted = gateway.spec.tracing
    if wanted is None:
        return None
    return Tracing(endpoint=wanted.endpoint, sample=wanted.sample, service=f"{gateway.metadata.name}-gateway")


_SECTIONS: Mapping[str, Callable[[InferenceGateway], Section | None]] = {
    "http": _http,
    "operations": _operations,
    "auth": _auth,
    "sessions": _sessions,
    "limits": _limits,
    "admission": _admission,
    "kafka": _kafka,
    "amqp": _amqp,
    "requests": _requests,
    "results": _results,
    "inference": _inference,
    "cache": _cache,
    "channels": _channels,
    "presence": _presence,
    "workflows": _workflows,
    "deliveries": _deliveries,
    "console": _console,
    "log": _log,
    "tracing": _tracing,
}
