"""`spec.kafka`: the broker, the two topics, and the group of gateways that works on requests."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from podpair.common.kafka_properties import ALIASES, OWNED, canonical_name, property_name
from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import (
    SERVERS,
    Duration,
    Key,
    ObjectName,
    SecretKey,
    SecretName,
    seconds,
    without_nulls,
)

_TOPIC = Annotated[str, Field(pattern="^[.]*[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=249)]
_REQUESTS_TOPIC = Annotated[str, Field(pattern="^[.]*[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=239)]  # and .workflows
_TOPICS = Annotated[str, Field(pattern="^([.]*[A-Za-z0-9_-][A-Za-z0-9._-]*[*]?|[*])$", max_length=249)]
_Properties = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64), BeforeValidator(without_nulls)
]
_UNCHANGED = "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)"


def _spelled(key: str) -> str:
    """Return the name of a property as the rules' CEL compares it, in which every underscore is a dot."""
    return property_name(key).replace("_", ".")


class Tls(Section):
    """TLS to the broker; `tls: {}` trusts the image's certificate authorities."""

    ca_ref: SecretKey | None = None
    """The certificate authority's certificate in PEM."""
    client_certificate_ref: SecretName | None = None
    """A Secret of type kubernetes.io/tls, with which the gateway authenticates."""


class Sasl(Section):
    """User name and password for the broker."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """The SASL mechanism."""
    secret_name: ObjectName
    """The Secret that holds both."""
    username_key: Key = "username"
    """The user name's key in it."""
    password_key: Key = "password"  # noqa: S105 - the name of a key
    """The password's key in it."""


class Topic(Section):
    """A topic."""

    name: _TOPIC | None = None
    """Its name, for good."""
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Its partitions."""
    replication: Annotated[int, Field(ge=1, le=32)] | None = None
    """Copies of each partition; default: the broker's."""
    config: _Properties = Field(default_factory=dict)
    """Other settings of the topic, by Kafka's names, such as max.message.bytes."""


class RequestsTopic(Topic):
    """The topic that queued requests wait in."""

    RULES: ClassVar = (
        Rule(
            _UNCHANGED,
            "the name of the requests topic can't change: queued requests would be left behind in the old one",
        ),
    )
    name: _REQUESTS_TOPIC | None = None
    """Its name, for good. Default: NAMESPACE.NAME.requests."""
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Its partitions: no more pods than that get queued work. Keep it equal to results.partitions."""
    retention: Duration = "24h"
    """How long a request may wait."""
    ordering: Literal["none", "session"] = "none"
    """`session`: the queued requests of a session are worked on in order, one after the other; `none`: the pods share them."""
    exactly_once: bool = False
    """Write answers and commit their requests in one Kafka transaction: no crash leaves a second answer on the topic. Costs a
    few milliseconds a request, and the gateways' user needs Write on transactional ids."""
    reply_topics: Annotated[tuple[_TOPICS, ...], Field(max_length=64)] = ()
    """The requests topics of other InferenceGateways whose workflows ask this one in a stage, where their answers are written
    (`*` at the end stands for any text). Whoever may write requests can name one of these, and no other; the gateways' user
    needs Write on them."""


class ResultsTopic(Topic):
    """The log that sessions are fed from and resume by."""

    RULES: ClassVar = (
        Rule(_UNCHANGED, "the name of the results topic can't change: clients could not resume what is in the old one"),
    )
    name: _TOPIC | None = None
    """Its name, for good. Default: NAMESPACE.NAME.results."""
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Its partitions. Growing it later moves sessions' homes, and needs kafka.allowRepartition."""
    retention: Duration = "1h"
    """How long results can be resumed."""
    users: bool = False
    """Pass records whose key is `user:<sub>` to all sessions of that user. Each gateway then reads the home partitions of its
    users, too: the whole topic, once they are many."""


class DeadLetters(Section):
    """Requests that failed every attempt, kept on the topic `<requests topic>.dlq`."""

    enabled: bool = True
    """Keep them."""
    retention: Duration = "168h"
    """How long they are kept."""


class ConsumerGroup(Section):
    """The Kafka consumer group of this resource's gateways."""

    RULES: ClassVar = (
        Rule(
            "duration(self.sessionTimeout) <= duration('1h')",
            "sessionTimeout ({sessionTimeout}) is more than 1h, the most that Kafka's clients take",
            lambda group: seconds(group.session_timeout) <= 3600,
        ),
    )

    id: Annotated[str, Field(min_length=1, max_length=249)] | None = None
    """Its id. Default: NAMESPACE.NAME."""
    session_timeout: Duration = "45s"
    """After this long without a heartbeat a pod loses its partitions. With protocol `consumer` the broker's
    group.consumer.session.timeout.ms applies instead."""
    protocol: Literal["classic", "consumer"] = "classic"
    """How the group assigns its partitions: `classic`, by its members, on any broker; `consumer` (KIP-848), by the broker,
    from Kafka 4.0 on: nobody waits for anybody else. A change rolls the pods, one after the other."""
    static_membership: bool = False
    """Each pod is a static member (group.instance.id is the pod's name): a container that restarts keeps its partitions, but
    those of a pod that goes are idle until sessionTimeout."""


def _takes_name(kafka: "Kafka", suffix: str) -> bool:
    """Return whether the results topic may be the requests topic's with that suffix; an unnamed one's name isn't known here."""
    name, requests = kafka.results.name, kafka.requests.name
    if name is None or not name.endswith(suffix):
        return False
    return requests is None or name == f"{requests}{suffix}"


class Kafka(Section):
    """The broker, the two topics, and the group of gateways that works on requests."""

    RULES: ClassVar = (
        Rule(
            "!has(self.requests.name) || !has(self.results.name) || self.requests.name != self.results.name",
            "requests.name and results.name are the same: requests and results need a topic each",
            lambda kafka: kafka.requests.name is None or kafka.requests.name != kafka.results.name,
        ),
        Rule(
            "has(self.requests.name) == has(self.results.name) || "
            "!(has(self.requests.name) && self.requests.name.endsWith('.results') || "
            "has(self.results.name) && self.results.name.endsWith('.requests'))",
            "requests.name ends as the results topic is called where it has no name, or results.name as the requests topic:"
            " name both",
            lambda kafka: (
                not (
                    ((kafka.requests.name or "").endswith(".results") and kafka.results.name is None)
                    or ((kafka.results.name or "").endswith(".requests") and kafka.requests.name is None)
                )
            ),
        ),
        Rule(
            "!self.deadLetters.enabled || !has(self.results.name) || !self.results.name.endsWith('.dlq') || "
            "has(self.requests.name) && !(self.results.name.startsWith(self.requests.name) && "
            "size(self.results.name) == size(self.requests.name) + 4)",
            "results.name is that of the dead letters, which is the requests topic's and .dlq: choose another",
            lambda kafka: not kafka.dead_letters.enabled or not _takes_name(kafka, ".dlq"),
        ),
        Rule(
            "!has(self.results.name) || !self.results.name.endsWith('.cache') || "
            "has(self.requests.name) && !(self.results.name.startsWith(self.requests.name) && "
            "size(self.results.name) == size(self.requests.name) + 6)",
            "results.name is that of the cache's topic, which is the requests topic's and .cache: choose another",
            lambda kafka: not _takes_name(kafka, ".cache"),
        ),
        Rule(
            "!has(self.results.name) || !self.results.name.endsWith('.presence') || "
            "has(self.requests.name) && !(self.results.name.startsWith(self.requests.name) && "
            "size(self.results.name) == size(self.requests.name) + 9)",
            "results.name is that of the topic of presence, which is the requests topic's and .presence: choose another",
            lambda kafka: not _takes_name(kafka, ".presence"),
        ),
        Rule(
            "!has(self.results.name) || !self.results.name.endsWith('.workflows') || "
            "has(self.requests.name) && !(self.results.name.startsWith(self.requests.name) && "
            "size(self.results.name) == size(self.requests.name) + 10)",
            "results.name is that of the workflows' topic, which is the requests topic's and .workflows: choose another",
            lambda kafka: not _takes_name(kafka, ".workflows"),
        ),
        Rule(
            "!has(self.client) || !self.client.exists(p, p.lowerAscii().replace('_', '.') in ["
            + ", ".join(f"'{name}'" for name in OWNED)
            + "])",
            "client: " + ", ".join(OWNED) + " are podpair's own to set, in whatever case, with dots or underscores",
            lambda kafka: not any(_spelled(name) in OWNED for name in kafka.client),
        ),
        Rule(
            "!has(self.client) || self.client.all(p, self.client.exists_one(q,"
            " q.lowerAscii().replace('_', '.') == p.lowerAscii().replace('_', '.'))) && "
            + " && ".join(
                "!("
                + " && ".join(f"self.client.exists(p, p.lowerAscii().replace('_', '.') == '{name}')" for name in pair)
                + ")"
                for pair in ALIASES.items()
            ),
            "client: a property is set twice, under two spellings of its name",
            lambda kafka: len({canonical_name(_spelled(name)) for name in kafka.client}) == len(kafka.client),
        ),
        Rule(
            "!self.adoptTopics || self.createTopics",
            "adoptTopics is true and createTopics false: topics that podpair may not alter can't be adopted",
            lambda kafka: not kafka.adopt_topics or kafka.create_topics,
        ),
    )
    bootstrap_servers: Annotated[str, Field(pattern=SERVERS, max_length=2048)]
    """The broker's address, host:port; several with commas. A name without a dot is a Service of the resource's namespace."""
    tls: Tls | None = None
    """TLS to the broker; `tls: {}` trusts the image's certificate authorities."""
    sasl: Sasl | None = None
    """User name and password for the broker."""
    client: _Properties = Field(default_factory=dict)
    """Any other librdkafka property, for every client of the gateway, except those that are podpair's own to set. Case doesn't
    matter, and an underscore is a dot."""
    create_topics: bool = True
    """Create missing topics, and keep those that this resource created as specified. Any other is used as it is."""
    adopt_topics: bool = False
    """Adopt existing topics that are no other resource's, as if this resource had created them: they are altered, and deleted
    with deletionPolicy Delete."""
    allow_repartition: bool = False
    """Let the results topic grow: sessions' homes move, and clients get a gap."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to the topics that this resource created or adopted when it is deleted."""
    requests: RequestsTopic = Field(default_factory=RequestsTopic)
    """The topic that queued requests wait in."""
    results: ResultsTopic = Field(default_factory=ResultsTopic)
    """The log that sessions are fed from and resume by."""
    dead_letters: DeadLetters = Field(default_factory=DeadLetters)
    """Requests that failed every attempt."""
    consumer_group: ConsumerGroup = Field(default_factory=ConsumerGroup)
    """The Kafka consumer group of this resource's gateways."""
