"""`spec.amqp`: a queue of RabbitMQ that requests are taken from, besides Kafka's topic or instead of it."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import Duration, SecretKey, SecretName, seconds, without_nulls

_LONGEST_TTL = "1193h"  # milliseconds in 32 bits
_ShortText = Annotated[str, Field(min_length=1, max_length=200)]
_Tasks = Annotated[dict[str, _ShortText], Field(max_length=64), BeforeValidator(without_nulls)]


def _needs_declare(amqp: "Amqp") -> bool:
    return amqp.exchange is not None or amqp.max_priority is not None or amqp.message_ttl is not None


class Amqp(Section):
    """A queue of RabbitMQ that requests are taken from. Only the pods talk to it; the operator doesn't."""

    RULES: ClassVar = (
        Rule(
            "!has(self.maxPriority) || self.queueType == 'classic'",
            "maxPriority needs queueType classic: a quorum queue has no priorities",
            lambda amqp: amqp.max_priority is None or amqp.queue_type == "classic",
        ),
        Rule(
            "(has(self.routingKeys) && size(self.routingKeys) > 0) == has(self.exchange)",
            "exchange and routingKeys go together: set both, or neither",
            lambda amqp: bool(amqp.routing_keys) == (amqp.exchange is not None),
        ),
        Rule(
            "self.declare || !(has(self.exchange) || has(self.maxPriority) || has(self.messageTtl))",
            "exchange, maxPriority and messageTtl are for a queue that is declared: declare is false",
            lambda amqp: amqp.declare or not _needs_declare(amqp),
        ),
        Rule(
            f"!has(self.messageTtl) || duration(self.messageTtl) <= duration('{_LONGEST_TTL}')",
            f"messageTtl is more than {_LONGEST_TTL}, the most that RabbitMQ takes",
            lambda amqp: amqp.message_ttl is None or seconds(amqp.message_ttl) <= seconds(_LONGEST_TTL),
        ),
        Rule(
            "!has(self.celeryTasks) || self.celeryTasks.all(k, size(k) > 0 && size(k) <= 200)",
            "celeryTasks: a task's name has 1 to 200 characters",
            lambda amqp: all(0 < len(name) <= 200 for name in amqp.celery_tasks),
        ),
    )
    url_ref: SecretKey
    """The key of a Secret with the address: amqp://user:password@host:port/vhost, or amqps://."""
    ca_ref: SecretKey | None = None
    """The certificate authority's certificate in PEM, for amqps; default: those of the image."""
    client_certificate_ref: SecretName | None = None
    """A Secret of type kubernetes.io/tls, with which the gateway authenticates."""
    source: Literal["both", "amqp"] = "both"
    """`both`: requests come from Kafka's requests topic, too; `amqp`: that is not read, and clients have only the
    direct route."""
    queue: _ShortText | None = None
    """The queue that requests are taken from. Default: NAMESPACE.NAME.requests."""
    declare: bool = True
    """Declare the queue, and with deadLetters the exchange `<queue>.dlx` and the queue `<queue>.dlq`; otherwise they have to be
    there."""
    queue_type: Literal["quorum", "classic"] = "quorum"
    """What kind of queue is declared. Priorities need a classic one."""
    max_priority: Annotated[int, Field(ge=1, le=255)] | None = None
    """Highest priority of a classic queue that is declared; default: it has none."""
    delivery_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """How often a message of a quorum queue that is declared may be returned by pods that died with it, before the broker makes
    it a dead letter."""
    message_ttl: Duration | None = None
    """How long a message may wait in a queue that is declared; default: without end."""
    exchange: _ShortText | None = None
    """An exchange, which has to be there, that a declared queue is bound to."""
    routing_keys: Annotated[tuple[_ShortText, ...], Field(max_length=64)] = ()
    """The keys that it is bound with."""
    dead_letters: bool = True
    """Keep messages that can't be read or answered."""
    prefetch: Annotated[int, Field(ge=1, le=65_535)] = 64
    """Messages that a pod works on at a time."""
    model: _ShortText | None = None
    """The model of messages that name none in the header `model`."""
    model_by_routing_key: bool = False
    """Take the routing key for the model's name, unless the header `model` says it, or the key is the queue's name."""
    celery_tasks: _Tasks = Field(default_factory=dict)
    """Tasks of Celery (protocol 2) that are requests: the model of each, by the task's name."""
