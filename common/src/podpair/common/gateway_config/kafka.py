"""Settings of Kafka, and of the two topics."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from podpair.common.gateway_config.fields import Count, PositiveSeconds, Seconds, Section, TopicName, check_once
from podpair.common.kafka_properties import canonical_name, check_not_owned
from podpair.common.lists import Joined, Listed, Texts

_SERVER = re.compile(
    r"((PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\])(:\d{1,5})?", re.I
)


def _named(values: dict[object, object]) -> dict[str, object]:
    """Key properties by librdkafka's names. Raises ValueError for one that is podpair's own, or that is set twice."""
    named: dict[str, object] = {}
    for key, value in values.items():
        check_not_owned(str(key))
        name = canonical_name(str(key))
        if name in named:
            raise ValueError(f"{name} is set twice: {key} is another name of it")
        named[name] = value
    return named


class Kafka(Section):
    """The broker."""

    bootstrap_servers: Joined = "127.0.0.1:9092"
    """host:port, several with commas or as a list."""
    embedded: bool = False
    """Run a broker inside this process (librdkafka's mock cluster): for a laptop, its data ends with the process."""
    client: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)  # holds passwords
    """Any librdkafka property, for every client, but those that have a setting of their own here, or that podpair's guarantees
    stand on: they are refused by name; from the environment PODPAIR_KAFKA__CLIENT__SASL_USERNAME is sasl.username."""
    client_files: dict[str, Path] = Field(default_factory=dict)
    """librdkafka properties whose values stand in files, such as sasl.password, so that no file or environment holds the secret
    itself; from the environment PODPAIR_KAFKA__CLIENT_FILES__SASL_PASSWORD=/run/secrets/password."""
    create_topics: bool = True
    """Create topics that are missing; otherwise a missing one is an error."""
    await_topics: bool = False
    """With create_topics false: wait for topics that are missing, for another, such as the operator, creates them."""
    probe_seconds: PositiveSeconds = 2
    """How often the broker is asked whether it is there, which readiness depends on."""
    required_for_readiness: bool = True
    """Not ready while no broker answers, or a client of it is dead. `false`: a pod that still answers /v2 and chat stays in its
    Service; /readyz tells it all the same."""
    producer_buffer_bytes: Annotated[int, Field(ge=1 << 20)] = 64 << 20
    """Memory for records that no broker has acknowledged yet; a request that finds it full is refused as overloaded at once."""

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers(cls, value: str) -> str:
        for server in value.split(","):
            if not _SERVER.fullmatch(server.strip()):
                raise ValueError(f"{server.strip()!r} is not host:port")
        return value

    @model_validator(mode="after")
    def _once(self) -> Self:
        if both := sorted(self.client.keys() & self.client_files.keys()):
            raise ValueError(f"{' and '.join(both)}: in client and in client_files: choose one")
        return self

    @field_validator("client_files", mode="before")
    @classmethod
    def _file_names(cls, value: object) -> object:
        return _named(value) if isinstance(value, dict) else value

    @field_validator("client", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        named = _named(value)
        for name, setting in named.items():
            if not isinstance(setting, str | int | float):
                raise ValueError(f"{name} must be a text, a number or a boolean")
        return named


class ModelRetries(Section):
    """How queued requests to one model are retried, in place of what holds for all."""

    model: Annotated[str, Field(min_length=1)]
    """Its name."""
    max_attempts: Count | None = None
    """How often a request that it fails is tried. Unset: `requests.max_attempts`."""
    busy_seconds: PositiveSeconds | None = None
    """How long a request is retried that it refuses as busy, or because it isn't ready. Unset: `requests.busy_seconds`."""


class Requests(Section):
    """The requests topic, and this gateway's part in working on it."""

    source: Literal["kafka", "amqp", "both"] = "kafka"
    """Where queued requests are taken from: Kafka's requests topic, the RabbitMQ of the section `amqp`, or both. With `amqp` the
    topic is not read, and so clients' requests have the direct route only."""
    topic: TopicName = "podpair.requests"
    """Topic that queued requests are written to."""
    group: Annotated[str, Field(min_length=1)] = "podpair"
    """Consumer group of all gateways of one model."""
    group_instance_id: str | None = None
    """Static membership (group.instance.id): a name that this pod keeps over restarts, such as a StatefulSet's pod name."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """How the group shares its partitions out: `classic`, by its members, on any broker; `consumer` (KIP-848), by the broker,
    from Kafka 4.0 on: nobody waits for anybody else. A fleet can be changed over one gateway after the other: while the group is
    of the other kind a gateway joins it as such, and once all want `consumer` they change together (docs/design.md)."""
    session_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 45
    """After so long without a sign of life the group takes this member's partitions away. With group_protocol `consumer` the
    broker's group.consumer.session.timeout.ms says how long."""
    partitions: Count = 8
    """Partitions of the topic if it is created here; no more gateways than that get work."""
    replication: Count | None = None
    """Copies of each partition if it is created here; unset is the broker's default."""
    in_flight: Count = 64
    """Queued requests that are worked on at a time."""
    max_attempts: Count = 3
    """How often a request that the model fails is tried."""
    backoff_seconds: PositiveSeconds = 0.2
    """Wait before the second attempt; it doubles with each."""
    busy_seconds: PositiveSeconds = 30
    """How long a request is retried that the model refuses as busy (429, 503; gRPC RESOURCE_EXHAUSTED, UNAVAILABLE) while
    its health says that it is ready; then it is given up. Waiting for a model that is not ready doesn't count."""
    models: Annotated[tuple[ModelRetries, ...], Listed] = ()
    """Models whose requests are retried otherwise, each at most once."""
    max_model_crashes: Count = 3
    """How often the model may die while it has a request, before that request is given up; such a death is no attempt."""
    exactly_once: bool = False
    """Write answers and commit their requests in one Kafka transaction: no crash leaves a second answer on the topic. Costs
    a few milliseconds a request, and needs a broker with transactions (not the embedded one)."""
    transaction_timeout_seconds: Annotated[float, Field(ge=1)] = 10
    """After so long the broker ends the transaction that a gateway has left open by dying; until then readers wait at it."""
    ordering: Literal["none", "session"] = "none"
    """`session`: the queued requests of a session are worked on one after the other, in order; `none`: they spread over the
    fleet. The same on every gateway."""
    idempotency_bytes: Annotated[int, Field(ge=0)] = 1 << 24
    """Answers of queued requests that are kept: a request that is read a second time is given the same. As many again of
    workflows."""
    dead_letters: bool = True
    """Keep requests that no attempt could answer on the topic `<requests.topic>.dlq` (`podpair-gateway replay`)."""
    dead_letter_retention_seconds: PositiveSeconds = 604_800
    """How long they are kept, if that topic is created here."""

    reply_topics: Texts = ()
    """Topics of requests of other gateways whose workflows may have their answers written there (`*` at the end stands for any
    text). Whoever may write requests can name one of these, and no other."""

    @model_validator(mode="after")
    def _models_once(self) -> Self:
        check_once(retries.model for retries in self.models)
        return self

    @property
    def dead_letter_topic(self) -> str | None:
        """The topic for dead letters; None: they are only logged."""
        return f"{self.topic}.dlq" if self.dead_letters else None


class Results(Section):
    """The results topic: the log that sessions are fed from and resume by."""

    topic: TopicName = "podpair.results"
    """Topic that results and pushes are written to."""
    partitions: Count = 8
    """Partitions of the topic if it is created here. Growing it later moves sessions' homes."""
    replication: Count | None = None
    """Copies of each partition if it is created here; unset is the broker's default."""
    retention_seconds: PositiveSeconds = 3600
    """How long results can be resumed, if the topic is created here."""
    tail_cache_bytes: Count = 64 << 20
    """Memory for the newest records of all partitions read here; a reconnect that finds its place in it asks no broker."""
    linger_seconds: Seconds = 30
    """How long a partition is still read after its last session left."""
    batch_linger_seconds: Annotated[float, Field(ge=0, le=0.1)] = 0.002
    """How long a record may wait for others, to be delivered in one batch, while records come one after the other, in whole
    milliseconds; one that comes after a pause doesn't wait. More delays results by half as much and costs less CPU; 0: none
    waits."""
    users: bool = False
    """Pass records whose key is `user:<sub>` to all sessions of that user. Each gateway then reads the home partitions of its
    users, too: the whole topic, once they are many."""
