"""Settings of RabbitMQ, as a second source of requests."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from podpair.common.gateway_config.fields import Count, PositiveSeconds, Section
from podpair.common.lists import Texts

_LONGEST_TTL = 4_294_967  # seconds: milliseconds in 32 bits
ShortText = Annotated[str, Field(min_length=1, max_length=200)]


def broker_url_fault(url: str) -> str | None:
    """Return why this is no address of a RabbitMQ; None if it is one. The reason doesn't quote it: it may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        return "it is not amqp(s)://user:password@host:port/vhost"
    try:
        _ = parts.port
    except ValueError as error:
        return str(error)
    return None


class Amqp(Section):
    """RabbitMQ: a queue of requests beside Kafka's topic, if `requests.source` is `amqp` or `both`."""

    url: str = Field(default="amqp://127.0.0.1:5672/", repr=False)  # may hold a password
    """amqp://user:password@host:port/vhost, or amqps://; `?heartbeat=10` sets the heartbeat in seconds."""
    url_file: Path | None = None
    """The file with the URL, instead of `url`; it is read at each connection."""
    ca_file: Path | None = None
    """Certificates (PEM) of the authorities that may sign the broker's, for amqps; unset: the system's."""
    certificate_file: Path | None = None
    """This client's certificate (PEM), where the broker asks for one."""
    key_file: Path | None = None
    """Its key (PEM)."""
    queue: Annotated[str, Field(min_length=1, max_length=200)] = "podpair.requests"
    """The queue that requests are taken from."""
    declare: bool = True
    """Declare the queue, and with `dead_letters` the exchange `<queue>.dlx` and the queue `<queue>.dlq`; otherwise what is
    missing is an error, and the rest stays as it is."""
    queue_type: Literal["quorum", "classic"] = "quorum"
    """What kind of queue is declared. Priorities need a classic one."""
    max_priority: Annotated[int, Field(ge=1, le=255)] | None = None
    """Highest priority of a classic queue that is declared (x-max-priority); RabbitMQ advises 10 at most. Unset: none."""
    delivery_limit: Count = 20
    """How often a message of a quorum queue that is declared may be returned by gateways that died with it, before the broker
    makes it a dead letter."""
    message_ttl_seconds: Annotated[float, Field(gt=0, le=_LONGEST_TTL)] | None = None
    """How long a message may wait in a queue that is declared (x-message-ttl). Unset: without end."""
    exchange: ShortText | None = None
    """An exchange, which has to be there, that a declared queue is bound to."""
    routing_keys: Texts = ()
    """The keys that it is bound with."""
    dead_letters: bool = True
    """Keep messages that can't be read or answered: by the exchange `<queue>.dlx`, with the reason in their headers. Otherwise
    they are rejected, and the queue's own policy says what becomes of them."""
    prefetch: Annotated[int, Field(ge=1, le=65_535)] = 64
    """Messages that are worked on at a time: the broker sends no more before some are acknowledged."""
    model: ShortText | None = None
    """The model of messages that name none in the header `model`."""
    model_by_routing_key: bool = False
    """Take the routing key for the model's name, unless the header `model` says it, or the key is the queue's name."""
    celery_tasks: dict[ShortText, ShortText] = Field(default_factory=dict)
    """Tasks of Celery (protocol 2) that are requests: the model of each, by the task's name. A task's only argument is `data`; or
    its keyword arguments are `data` or `inputs`, and `parameters`. With any here, other tasks are refused."""
    reply_timeout_seconds: PositiveSeconds = 30
    """How long an answer is sent again that the reply queue refuses, since it is full; then it is given up."""
    probe_seconds: PositiveSeconds = 2
    """How often the queue's length is asked for."""
    required_for_readiness: bool = True
    """Not ready while RabbitMQ can't be used. `false`: /readyz tells it all the same."""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if (fault := broker_url_fault(value)) is not None:
            raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together: set both, or neither")
        if self.max_priority is not None and self.queue_type == "quorum":
            raise ValueError("max_priority needs queue_type classic: a quorum queue has no priorities")
        if bool(self.routing_keys) != (self.exchange is not None):
            raise ValueError("exchange and routing_keys go together: set both, or neither")
        if (
            self.exchange is not None or self.max_priority is not None or self.message_ttl_seconds
        ) and not self.declare:
            raise ValueError(
                "exchange, max_priority and message_ttl_seconds are for a queue that is declared: declare is false"
            )
        return self

    @property
    def dead_letter_exchange(self) -> str | None:
        """The exchange for dead letters; None: they are rejected."""
        return f"{self.queue}.dlx" if self.dead_letters else None

    @property
    def dead_letter_queue(self) -> str:
        """The queue for dead letters, if it is declared here."""
        return f"{self.queue}.dlq"
