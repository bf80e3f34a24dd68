"""Translates errors of the broker or the connection to it into the condition KafkaReady."""

from confluent_kafka import KafkaError, KafkaException

from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.messages import stable_message

_AUTHENTICATION = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}
_TLS = {KafkaError._SSL}
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_AWAY = {
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.REQUEST_TIMED_OUT,
}
_REFUSED = {
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_REQUEST,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
}


class BrokerError(Exception):
    """The broker didn't do what was asked. `state` is the state to report."""

    def __init__(self, state: KafkaState) -> None:
        super().__init__(state.message)
        self.state = state


def is_fatal(error: KafkaError) -> bool:
    """Return whether waiting any longer for an answer makes no sense."""
    return _refused(error) or error.code() in _TLS


def specificity(error: KafkaError) -> int:
    """Return how much an error says about the cause: that all brokers are down says least."""
    if is_fatal(error) or _no_tls(error):
        return 2
    return 0 if error.code() == KafkaError._ALL_BROKERS_DOWN else 1


def _refused(error: KafkaError) -> bool:
    """Return whether the broker refused the credentials; librdkafka says so, too, if the connection breaks in between."""
    return error.code() in _AUTHENTICATION and "Broker transport failure" not in error.str()


def _no_tls(error: KafkaError) -> bool:
    return error.code() in _TLS or (error.code() == KafkaError._TRANSPORT and "SSL handshake failed" in error.str())


def broker_error(error: KafkaError, servers: str, doing: str = "", cause: KafkaError | None = None) -> BrokerError:
    """Translate `error` while `doing` something (such as `creating topic t`) at `servers`; `cause` is the connection's error."""
    shown = cause if cause is not None and error.code() in _AWAY and specificity(cause) else error
    code, text = shown.code(), stable_message(shown.str())
    during = f" while {doing}" if doing else ""
    if _refused(shown):
        reason = Reason.AUTHENTICATION_FAILED
        message = (
            f"the broker at {servers} refuses user name and password ({text}):"
            " check the Secret and the mechanism that spec.kafka.sasl names"
        )
    elif _no_tls(shown):
        reason = Reason.TLS_FAILED
        message = (
            f"no TLS with the broker at {servers} ({text}): check spec.kafka.tls, and what its caRef and"
            " clientCertificateRef name"
        )
    elif code in _FORBIDDEN:
        reason = Reason.NOT_AUTHORIZED
        message = f"the broker at {servers} doesn't allow it{during} ({text}): {_permission(code)}"
    elif code in _AWAY | _AUTHENTICATION:
        reason = Reason.BROKER_UNREACHABLE
        message = (
            f"no broker answers at {servers} ({text}): check spec.kafka.bootstrapServers, that the broker runs, that this"
            " listener wants TLS and SASL just as spec.kafka.tls and sasl say, and that its advertised addresses can be"
            " reached from here"
        )
    elif code in _REFUSED:
        reason = Reason.TOPIC_REFUSED
        message = f"the broker at {servers} refused{during} ({text}): change what spec.kafka asks for"
    else:
        reason = Reason.UNEXPECTED
        message = f"the broker at {servers} failed{during} ({text}): its log may say more; podpair tries again"
    return BrokerError(KafkaState(False, reason, message))


def client_invalid(error: KafkaException) -> BrokerError:
    """Translate librdkafka's refusal of a property."""
    text = error.args[0].str().removeprefix("Failed to create admin client: ")
    message = f"librdkafka refuses its properties ({text}): correct spec.kafka.client, tls or sasl, or their Secrets"
    return BrokerError(KafkaState(False, Reason.CLIENT_INVALID, message))


def _permission(code: int) -> str:
    if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return "grant its user Describe on the consumer group (and Delete, for deletionPolicy: Delete)"
    return (
        "grant its user Describe, DescribeConfigs, Create, Alter and AlterConfigs on the topics"
        " (and Delete, for deletionPolicy: Delete), or set kafka.createTopics: false and make the topics yourself"
    )
