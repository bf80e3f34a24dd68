"""What a condition says of a broker's failure is the same each time while nothing changes."""

import pytest
from confluent_kafka import KafkaError

from podpair.operator.core.kafka_state import Reason
from podpair.operator.kafka.errors import broker_error

TIMES = [
    ("(after 7ms in state CONNECT)", "(after 0ms in state CONNECT, 3 identical error(s) suppressed)"),
    ("(after 30000ms in state CONNECT)", "(after 30007ms in state CONNECT, 1 identical error(s) suppressed)"),
    ("(after 1ms in state APIVERSION_QUERY)", "(after 22ms in state APIVERSION_QUERY)"),
]


@pytest.mark.parametrize(("once", "again"), TIMES)
def test_how_long_a_failure_took_is_not_told(once: str, again: str) -> None:
    text = "kafka:9092/bootstrap: Connect to ipv4#10.0.0.7:9092 failed: Connection refused"
    first, second = (
        broker_error(
            KafkaError(KafkaError._TIMED_OUT), "kafka:9092", cause=KafkaError(KafkaError._TRANSPORT, f"{text} {took}")
        )
        for took in (once, again)
    )
    assert first.state == second.state
    assert first.state.reason == Reason.BROKER_UNREACHABLE
    assert text in first.state.message


def test_what_else_is_in_brackets_is_told() -> None:
    text = "Topic 'a' (of group (b)) is refused (by policy)"
    assert text in broker_error(KafkaError(KafkaError.POLICY_VIOLATION, text), "kafka:9092").state.message
