"""The topics that a resource wants."""

from collections.abc import Mapping
from typing import NamedTuple

from podpair.common.gateway_config.deliveries import Deliveries
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.scalars import seconds
from podpair.operator.core.builders.naming import (
    cache_topic,
    dead_letters_topic,
    deliveries_topic,
    presence_topic,
    requests_topic,
    results_topic,
    workflows_topic,
)

CLEANUP = "cleanup.policy"
_AT_CREATION = {CLEANUP: "delete"}  # a broker's own default may be compact, which would lose results
_INVALIDATIONS = "1h"  # a gateway that lags for longer begins with an empty cache
_STATE = {CLEANUP: "compact", "min.cleanable.dirty.ratio": "0.1"}  # as the gateway does where it creates the topic
_SIZE = "max.message.bytes"
_DAY = 86_400  # seconds


class WantedTopic(NamedTuple):
    """A topic as the resource wants it. `replication` None: the broker's default."""

    name: str
    partitions: int
    replication: int | None
    config: Mapping[str, str]

    @property
    def config_at_creation(self) -> dict[str, str]:
        """The settings that it is made with."""
        return _AT_CREATION | dict(self.config)


def wanted_topics(gateway: InferenceGateway) -> list[WantedTopic]:
    """Return requests, results, and the topics of dead letters, the cache, workflows and deliveries if there are such, in that
    order.
    """
    kafka = gateway.spec.kafka
    requests, results = kafka.requests, kafka.results
    wanted = [
        WantedTopic(
            requests_topic(gateway),
            requests.partitions,
            requests.replication,
            {**_retained(requests.retention), **requests.config},
        ),
        WantedTopic(
            results_topic(gateway),
            results.partitions,
            results.replication,
            {**_retained(results.retention), **results.config},
        ),
    ]
    # What fits into the requests topic must fit into those that its records are kept on.
    size = {_SIZE: requests.config[_SIZE]} if _SIZE in requests.config else {}
    if kafka.dead_letters.enabled:
        config = _retained(kafka.dead_letters.retention) | size
        wanted.append(WantedTopic(dead_letters_topic(gateway), 1, requests.replication, config))
    if gateway.spec.gateway.cache is not None:
        wanted.append(WantedTopic(cache_topic(gateway), 1, requests.replication, _retained(_INVALIDATIONS)))
    if gateway.spec.gateway.presence is not None:
        wanted.append(WantedTopic(presence_topic(gateway), 1, requests.replication, dict(_STATE)))
    if gateway.spec.gateway.workflows is not None:
        wanted.append(WantedTopic(workflows_topic(gateway), requests.partitions, requests.replication, _STATE | size))
    return wanted + topics_of_deliveries(gateway)


def topics_of_deliveries(gateway: InferenceGateway) -> list[WantedTopic]:
    """Return the topics of deliveries, as the gateway makes them where there is no operator."""
    wanted, results = gateway.spec.deliveries, gateway.spec.kafka.results
    if wanted is None:
        return []
    size = {_SIZE: results.config[_SIZE]} if _SIZE in results.config else {}
    # Whatever waits has been given up by then.
    waiting = {"retention.ms": str(round((seconds(wanted.max_age) + _DAY) * 1000))} | size
    widths = {
        "subscriptions": (1, {CLEANUP: "compact", "segment.ms": "3600000"}),
        "retry": (len(Deliveries().retry_seconds), waiting),
        "ordered": (results.partitions, waiting),
        "dlq": (1, _retained(wanted.dead_letter_retention) | size),
    }
    begun = deliveries_topic(gateway)
    return [
        WantedTopic(f"{begun}.{name}", partitions, wanted.replication, config)
        for name, (partitions, config) in widths.items()
    ]


def _retained(duration: str) -> dict[str, str]:
    return {"retention.ms": str(round(seconds(duration) * 1000))}
