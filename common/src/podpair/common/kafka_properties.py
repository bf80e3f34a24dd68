"""librdkafka's properties in `kafka.client`, of the gateway and of the resource: how they are spelled, and which podpair owns.

A property that one of podpair's guarantees stands on, or that has a setting of its own, is refused by name, under each of its
aliases, with what to set instead. Every other is obeyed, also where podpair has a value of its own for it (`linger.ms`,
`fetch.*`, `socket.timeout.ms`, …): nothing that a user sets is overridden silently.

Invariant: the gateway, the operator and the CRD's rules are made of these lists alone, so that none takes what another refuses.
"""

from collections.abc import Mapping
from string import ascii_lowercase, ascii_uppercase

# librdkafka's properties whose names hold an underscore; in every other an underscore from the environment is a dot.
_UNDERSCORED = {"log_level", "ssl_ca", "ssl_certificate", "ssl_key", "ssl_engine_callback_data"}
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # as CEL's lowerAscii; str.lower makes a k of the Kelvin sign

ALIASES: Mapping[str, str] = {"queue.buffering.max.ms": "linger.ms", "message.timeout.ms": "delivery.timeout.ms"}
"""Another name of a property → its name here; podpair has a value of its own for each, which gives way to the user's."""

_GROUP = "the members of a group have to agree on it"
_COMMITS = "an offset is committed once its request has ended"
_READS = "where reading begins follows from what sessions have seen and from what the group has finished"
_DURABLE = "an acknowledged record must be on the broker, once"
_CALLBACK = "a file or an environment can't hold a function"

OWNED: Mapping[str, str] = {
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "metadata.broker.list": "set kafka.bootstrap_servers",
    "allow.auto.create.topics": "set kafka.create_topics",
    "group.id": "set requests.group",
    "group.instance.id": "set requests.group_instance_id",
    "group.protocol": "set requests.group_protocol",
    "group.protocol.type": _GROUP,
    "session.timeout.ms": "set requests.session_timeout_seconds",
    "heartbeat.interval.ms": "it follows requests.session_timeout_seconds",
    "partition.assignment.strategy": _GROUP,
    "enable.auto.commit": _COMMITS,
    "auto.commit.enable": _COMMITS,
    "enable.auto.offset.store": _COMMITS,
    "offset.store.method": _COMMITS,
    "auto.offset.reset": _READS,
    "enable.partition.eof": _READS,
    "isolation.level": "a reader must not see what a transaction has not committed",
    "acks": _DURABLE,
    "request.required.acks": _DURABLE,
    "enable.idempotence": _DURABLE,
    "delivery.report.only.error": "every acknowledgement is waited for",
    "transactional.id": "it follows requests.group and requests.group_instance_id",
    "transaction.timeout.ms": "set requests.transaction_timeout_seconds",
    "partitioner": "a session's records have to be in its home partition",
    "queue.buffering.max.kbytes": "set kafka.producer_buffer_bytes",
    "default.topic.config": "set the properties in it by their own names",
    "logger": _CALLBACK,
    "error.cb": _CALLBACK,
    "log.cb": _CALLBACK,
    "stats.cb": _CALLBACK,
    "throttle.cb": _CALLBACK,
    "oauth.cb": _CALLBACK,
    "on.commit": _CALLBACK,
    "on.delivery": _CALLBACK,
}
"""Name → why podpair sets it itself, or what to set instead."""


def property_name(key: str) -> str:
    """Return the librdkafka property that a key means: case doesn't matter, and an underscore is a dot."""
    name = key.translate(_LOWER)
    return name if name in _UNDERSCORED else name.replace("_", ".")


def canonical_name(key: str) -> str:
    """Return the one name of the property that a key means, of those that have two."""
    name = property_name(key)
    return ALIASES.get(name, name)


def check_not_owned(key: str) -> None:
    """Raise ValueError for a property that is podpair's own, with what to set instead."""
    name = property_name(key)
    if (instead := OWNED.get(name)) is not None:
        raise ValueError(f"{name} is podpair's own to set: {instead}")
