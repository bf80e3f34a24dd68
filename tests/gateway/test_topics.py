"""What a gateway believes of its topics, where a broker that has just started, or is busy, knows less than there is.

A real one is asked in test_operating.py; when it is in that state can't be chosen there, so its answers are written down here.
"""

from collections.abc import Container
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka import topics
from podpair.gateway.kafka.topics import BrokerUnreachable, MissingTopic, ensure_topics

NAMES = ("podpair.requests", "podpair.results", "podpair.requests.dlq")


def failed(code: int) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(KafkaException(KafkaError(code)))
    return future


class Admin:
    """A cluster with the topics, 4 partitions each; the broker that gives the `ignorant` answers (from 0) knows of none."""

    def __init__(self, ignorant: Container[int] = (), described: Future[Any] | None = None) -> None:
        self.ignorant = ignorant
        self.answers = 0
        self.described: Future[Any] = described or Future()
        if described is None:
            self.described.set_result(SimpleNamespace(topic_id="t-1", partitions=range(4)))

    def __call__(self, _: dict[str, Any]) -> "Admin":
        return self

    def list_topics(self, *_: Any, timeout: float) -> Any:
        known = () if self.answers in self.ignorant else NAMES
        self.answers += 1
        found = {name: SimpleNamespace(partitions=dict.fromkeys(range(4)), error=None) for name in known}
        return SimpleNamespace(topics=found, cluster_id="c-1")

    def create_topics(self, wanted: list[Any], **_: Any) -> dict[str, Future[Any]]:
        return {topic.topic: failed(KafkaError.TOPIC_ALREADY_EXISTS) for topic in wanted}

    def describe_topics(self, *_: Any, **__: Any) -> dict[str, Future[Any]]:
        return dict.fromkeys(NAMES, self.described)

    def describe_configs(self, asked: list[Any], **_: Any) -> dict[Any, Future[Any]]:
        return {resource: failed(KafkaError.TOPIC_AUTHORIZATION_FAILED) for resource in asked}

    def poll(self, _: float) -> int:
        return 0


def ensured(admin: Admin, monkeypatch: pytest.MonkeyPatch, **kafka: Any) -> topics.Topics:
    monkeypatch.setattr(topics, "AdminClient", admin)
    kafka = {"bootstrap_servers": "127.0.0.1:1", **kafka}
    return ensure_topics(Config.model_validate({"auth": {"disabled": True}, "kafka": kafka}))


@pytest.mark.parametrize("create", [True, False])
def test_a_broker_that_knows_of_no_topic_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch, create: bool) -> None:
    """One that was believed gave a gateway without partitions, which let nobody in."""
    known = ensured(Admin(), monkeypatch)
    assert ensured(Admin(ignorant={0, 2}), monkeypatch, create_topics=create).state == known.state
    assert known.requests == known.results == TopicState("t-1", 4)


def test_where_nobody_tells_how_large_records_may_be_kafkas_default_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ensured(Admin(), monkeypatch).limits.record_bytes("podpair.requests") == 1_048_588


def test_a_topic_that_nobody_ever_tells_of_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "_NEWS", 0.0)
    with pytest.raises(MissingTopic, match=r"podpair\.requests and podpair\.results"):
        ensured(Admin(ignorant=range(1000)), monkeypatch, create_topics=False)


def test_the_epoch_does_not_change_because_a_broker_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another epoch cuts every session off from its past: the gateway asks again instead."""
    with pytest.raises(BrokerUnreachable, match="querying the id"):
        ensured(Admin(described=failed(KafkaError._TIMED_OUT)), monkeypatch)
    old = ensured(Admin(described=failed(KafkaError.UNSUPPORTED_VERSION)), monkeypatch)
    config = Config.model_validate({"auth": {"disabled": True}})
    assert old.homes(config).epoch != ensured(Admin(), monkeypatch).homes(config).epoch
