"""Checks whether the gateway would take the configuration that a resource becomes, and names the fields of what it would refuse.

The resource's own rules leave nothing to refuse but in the gateway's environment, and a test holds them to it. Where they fall
short all the same, the fault is in the resource's condition InvalidSpec and in what `podpair validate` prints, instead of in
pods that don't start.
"""

from collections.abc import Iterator

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from podpair.common.gateway_config.model import Config
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.gateway_config import contents, gateway_config, refused_settings
from podpair.operator.core.builders.settings import gateway_variables

Place = tuple[str | int, ...]

_TEXTS = ("PODPAIR_KAFKA__CLIENT__", "PODPAIR_KAFKA__CLIENT_FILES__", "PODPAIR_REQUESTS__GROUP_INSTANCE_ID")
"""How variables begin whose settings are any text."""

FIELDS = {
    "http": "gateway",
    "http.origins": "gateway.origins",
    "http.trusted_proxies": "gateway.trustedProxies",
    "http.base_path": "network",
    "http.certificate_file": "gateway.tls.certificateRef",
    "http.key_file": "gateway.tls.certificateRef",
    "operations": "gateway",
    "auth": "gateway.auth",
    "auth.disabled": "gateway.auth.disabled",
    "auth.jwks_url": "gateway.auth.jwksUrl",
    "auth.secret_file": "gateway.auth.secretRef",
    "auth.public_key_file": "gateway.auth.publicKeyRef",
    "auth.issuer": "gateway.auth.issuer",
    "auth.audience": "gateway.auth.audience",
    "auth.leeway_seconds": "gateway.auth.leeway",
    "auth.required_claims": "gateway.auth.requiredClaims",
    "auth.session_claim": "gateway.auth.sessionClaim",
    "auth.query_token": "gateway.auth.queryToken",
    "sessions": "gateway.sessions",
    "sessions.idle_seconds": "gateway.sessions.idle",
    "sessions.heartbeat_seconds": "gateway.sessions.heartbeat",
    "sessions.resume_seconds": "gateway.sessions.resume",
    "sessions.drain_seconds": "gateway.drain",
    "shutdown_seconds": "gateway.shutdownTimeout",
    "sessions.buffer_bytes": "gateway.sessions.buffer",
    "limits": "gateway.limits",
    "limits.sessions": "gateway.sessions.max",
    "limits.message_bytes": "gateway.limits.message",
    "limits.in_flight": "gateway.limits.inFlight",
    "limits.max_direct_in_flight": "gateway.limits.maxDirectInFlight",
    "admission": "gateway.admission",
    "admission.rules": "gateway.admission.rules",
    "admission.load_shedding": "gateway.admission.loadShedding",
    "kafka": "kafka",
    "kafka.bootstrap_servers": "kafka.bootstrapServers",
    "kafka.client": "kafka.client",
    "amqp": "amqp",
    "amqp.url_file": "amqp.urlRef",
    "amqp.ca_file": "amqp.caRef",
    "amqp.certificate_file": "amqp.clientCertificateRef",
    "amqp.key_file": "amqp.clientCertificateRef",
    "amqp.queue": "amqp.queue",
    "amqp.declare": "amqp.declare",
    "amqp.queue_type": "amqp.queueType",
    "amqp.max_priority": "amqp.maxPriority",
    "amqp.delivery_limit": "amqp.deliveryLimit",
    "amqp.message_ttl_seconds": "amqp.messageTtl",
    "amqp.exchange": "amqp.exchange",
    "amqp.routing_keys": "amqp.routingKeys",
    "amqp.dead_letters": "amqp.deadLetters",
    "amqp.prefetch": "amqp.prefetch",
    "amqp.model": "amqp.model",
    "amqp.model_by_routing_key": "amqp.modelByRoutingKey",
    "amqp.celery_tasks": "amqp.celeryTasks",
    "requests": "kafka.requests",
    "requests.source": "amqp.source",
    "requests.topic": "kafka.requests.name",
    "requests.group": "kafka.consumerGroup.id",
    "requests.group_protocol": "kafka.consumerGroup.protocol",
    "requests.session_timeout_seconds": "kafka.consumerGroup.sessionTimeout",
    "requests.partitions": "kafka.requests.partitions",
    "requests.replication": "kafka.requests.replication",
    "requests.in_flight": "gateway.limits.maxQueuedInFlight",
    "requests.max_attempts": "gateway.limits.maxAttempts",
    "requests.exactly_once": "kafka.requests.exactlyOnce",
    "requests.reply_topics": "kafka.requests.replyTopics",
    "requests.ordering": "kafka.requests.ordering",
    "requests.dead_letters": "kafka.deadLetters.enabled",
    "requests.dead_letter_retention_seconds": "kafka.deadLetters.retention",
    "results": "kafka.results",
    "results.topic": "kafka.results.name",
    "results.partitions": "kafka.results.partitions",
    "results.replication": "kafka.results.replication",
    "results.retention_seconds": "kafka.results.retention",
    "results.users": "kafka.results.users",
    "inference": "inference",
    "inference.timeout_seconds": "inference.timeout",
    "inference.models": "inference.models",
    "cache": "gateway.cache",
    "cache.models": "gateway.cache.models",
    "cache.topic": "kafka.requests.name",
    "cache.lease_seconds": "gateway.cache.lease",
    "channels": "gateway.channels",
    "channels.rules": "gateway.channels.rules",
    "channels.automatic": "gateway.channels.automatic",
    "channels.per_session": "gateway.channels.perSession",
    "channels.publishes_per_second": "gateway.channels.publishesPerSecond",
    "presence": "gateway.presence",
    "presence.topic": "kafka.requests.name",
    "presence.rules": "gateway.presence.rules",
    "presence.lease_seconds": "gateway.presence.lease",
    "presence.watches": "gateway.presence.watches",
    "workflows": "gateway.workflows",
    "workflows.topic": "kafka.requests.name",
    "workflows.max_instances": "gateway.workflows.maxInstances",
    "workflows.max_calls": "gateway.workflows.maxCalls",
    "workflows.remember_seconds": "gateway.workflows.remember",
    "deliveries": "deliveries",
    "deliveries.topic": "deliveries.topic",
    "deliveries.replication": "deliveries.replication",
    "deliveries.rules": "deliveries.rules",
    "deliveries.email": "deliveries.email",
    "deliveries.web_push": "deliveries.webPush",
    "deliveries.timeout_seconds": "deliveries.timeout",
    "deliveries.absent_seconds": "deliveries.absentAfter",
    "deliveries.max_age_seconds": "deliveries.maxAge",
    "deliveries.max_ttl_seconds": "deliveries.maxTtl",
    "deliveries.dead_letter_retention_seconds": "deliveries.deadLetterRetention",
    "deliveries.per_host": "deliveries.perHost",
    "deliveries.in_flight": "deliveries.inFlight",
    "deliveries.slack_hosts": "deliveries.slackHosts",
    "deliveries.allow_http": "deliveries.allowHttp",
    "deliveries.ports": "deliveries.ports",
    "deliveries.allowed_networks": "deliveries.allowedNetworks",
    "console": "gateway.console",
    "console.model": "inference.models",
    "log": "gateway.logLevel",
    "tracing": "tracing",
    "tracing.endpoint": "tracing.endpoint",
    "tracing.sample": "tracing.sample",
}
"""A setting of the gateway, or one of its sections → what decides it, below `spec`."""


def config_faults(gateway: InferenceGateway) -> Iterator[tuple[Place, str]]:
    """Yield what the gateway would refuse, of a resource whose fields are valid: the field of the resource, and why."""
    refused = [(_field(setting), _sentence(setting, why)) for setting, why in refused_settings(gateway)]
    yield from refused or _environment_faults(gateway)


def _environment_faults(gateway: InferenceGateway) -> Iterator[tuple[Place, str]]:
    """Yield what the gateway would refuse of the variables in `gateway.env`, over a file that it takes."""
    own = {
        variable.name: ("spec", "gateway", "env", index)
        for index, variable in enumerate(gateway.spec.gateway.env)
        if variable.name.upper().startswith("PODPAIR_")
    }
    if not own:
        return
    # Imported where it is needed: what reads variables takes as long to import as all the rest.
    from podpair.common.gateway_config import environment

    yield from ((own[name], f"the gateway would refuse it: {why}") for name, why in environment.unknown_variables(own))
    known, unknown = _variables(gateway)
    try:
        Config.model_validate(environment.layered(contents(gateway_config(gateway)), known))
    except ValidationError as error:
        for one in error.errors():
            within = environment.variable_name(one["loc"])
            # What is not known may be the cause, or the cure.
            if any(name.startswith(within) for name in unknown):
                continue
            name = environment.variable_for(one["loc"], own)
            guilty = [name] if name is not None else [name for name in own if name.startswith(within)]
            place: Place = own[guilty[0]] if len(guilty) == 1 else ("spec", "gateway", "env")
            yield place, _sentence(one["loc"], environment.reason(one))


def _variables(gateway: InferenceGateway) -> tuple[dict[str, str], list[str]]:
    """Return the gateway's variables with their values, and those whose values are known only in the pod: they come from a
    Secret, say, or refer to another variable. If any text will do, one stands for the value: the setting must not be set twice.
    """
    known, later = {}, [variable["name"] for variable in gateway_variables(gateway)]
    for variable in gateway.spec.gateway.env:
        if variable.value_from is not None or _refers(variable.value or ""):
            later.append(variable.name)
        else:
            known[variable.name] = variable.value or ""
    texts = [name for name in later if name.upper().startswith(_TEXTS)]
    return known | dict.fromkeys(texts, "known in the pod"), [name for name in later if name not in texts]


def _refers(value: str) -> bool:
    """Return whether Kubernetes would replace a part of a value: `$(NAME)`, or `$$` by a dollar sign."""
    return "$(" in value or "$$" in value


def _sentence(setting: Place, why: str) -> str:
    named = ".".join(map(str, setting)) or "configuration"
    return f"the gateway would refuse it ({named}): {why.removeprefix('Value error, ')}"


def _field(setting: Place) -> Place:
    section, name = ".".join(map(str, setting[:1])), ".".join(map(str, setting[:2]))
    place = FIELDS.get(name) or FIELDS.get(section)
    # Rules have the same fields on either side.
    below = setting[2:] if name == "admission.rules" else ()
    parts = place.split(".") if place else ()
    return ("spec", *parts, *(to_camel(part) if isinstance(part, str) else part for part in below))
