"""What the operator has seen of a resource's topics and group, as the condition KafkaReady tells it.

`reason` is one of `Reason`, which programs may rely on; `message` says what, where, and what to do about it. What isn't known
is None, never 0.
"""

from dataclasses import dataclass
from enum import StrEnum

from podpair.operator.core.ownership import Remembered


class Reason(StrEnum):
    """Why KafkaReady is as it is. All but the first mean that it isn't."""

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
    GROUP_CONFLICT = "ConsumerGroupConflict"  # it works on another resource's topic
    REPARTITION_REFUSED = "RepartitionRefused"  # the results topic would have to grow, which moves homes
    CREDENTIALS_REFUSED = "CredentialsRefused"  # the installation's policy doesn't allow to show them so
    CLIENT_FAILED = "KafkaClientFailed"  # the process that asks the broker ended, or gave no answer
    CLIENT_BUSY = "KafkaClientBusy"  # all such processes were busy with others
    UNEXPECTED = "BrokerFailed"  # any other answer of the broker


@dataclass(frozen=True)
class KafkaSeen:
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
    """What was made or changed just now, a sentence each: for events. Empty where everything was as it should be."""
    remembered: Remembered | None = None
    """Whose topics and group are, for the resource's status; None: nothing new is known."""


def not_asked(reason: Reason, message: str) -> KafkaSeen:
    """The broker was not asked, for want of credentials that may be shown to it."""
    return KafkaSeen(False, reason, message)
