"""The state of a resource's topics and group, as the condition KafkaReady reports it.

`reason` is one of `Reason`, which programs may rely on; `message` says what, where, and what to do about it. What isn't known
is None, never 0.
"""

from dataclasses import dataclass
from enum import StrEnum

from podpair.operator.core.ownership import RecordedOwnership


class Reason(StrEnum):
    """Why KafkaReady is as it is. All but the first mean that it is False."""

    TOPICS_READY = "TopicsReady"
    BROKER_UNREACHABLE = "BrokerUnreachable"  # nobody answers at the address
    TLS_FAILED = "TlsFailed"  # somebody answers, but is not trusted, or doesn't trust us
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    NOT_AUTHORIZED = "NotAuthorized"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - or one of its keys
    CLIENT_INVALID = "ClientPropertiesInvalid"  # librdkafka refuses what kafka.client or a Secret holds
    TOPIC_MISSING = "TopicMissing"  # and createTopics is false
    TOPIC_REFUSED = "TopicRefused"  # the broker won't make or change it so
    TOPIC_TOO_NARROW = "TopicHasTooFewPartitions"  # and is not podpair's to widen
    TOPIC_CONFLICT = "TopicConflict"  # it is another resource's
    TOPIC_COMPACTED = "TopicCompacted"  # which would lose records
    TOPIC_NOT_COMPACTED = "TopicNotCompacted"  # which would lose the state of workflows, or subscriptions
    GROUP_CONFLICT = "ConsumerGroupConflict"  # it works on another resource's topic
    REPARTITION_REFUSED = "RepartitionRefused"  # the results topic would have to grow, which moves homes
    CREDENTIALS_REFUSED = "CredentialsRefused"  # the installation's policy doesn't allow to show them so
    CLIENT_FAILED = "KafkaClientFailed"  # the process that asks the broker ended, or gave no answer
    CLIENT_BUSY = "KafkaClientBusy"  # all such processes were busy with others
    UNEXPECTED = "BrokerFailed"  # any other answer of the broker


@dataclass(frozen=True)
class KafkaState:
    """What was found, and what was done about it."""

    ready: bool
    reason: str
    """One of `Reason`."""
    message: str
    """What, where, and what to do: for people."""
    lag: int | None = None
    """Queued requests that wait; None: not known."""
    partitions: int | None = None
    """Partitions of the requests topic, so most pods that get queued work; None: not known."""
    changes: tuple[str, ...] = ()
    """What was created or changed this time, a sentence each: for events. Empty if everything was as it should be."""
    ownership: RecordedOwnership | None = None
    """Whose topics and group are, for the resource's status; None: nothing new is known."""


def not_probed(reason: Reason, message: str) -> KafkaState:
    """Return the state of a broker that was not asked, because credentials for it are missing or not allowed."""
    return KafkaState(False, reason, message)
