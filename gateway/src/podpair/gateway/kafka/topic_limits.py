"""How large a record each topic takes: `max.message.bytes`, which the gateway's own clients have to follow.

Kafka counts it over a whole batch as it is written, so that a batch of small records may be too large as well.
"""

import logging
from collections.abc import Collection

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

_log = logging.getLogger(__name__)
_BROKERS_DEFAULT = 1_048_588  # bytes; message.max.bytes of a broker that was not told otherwise
_ENVELOPE = 2048  # bytes that a record's headers and its batch take beside its value, at most about
_BATCH = 1_000_000  # bytes of a batch, where no topic's limit is lower; librdkafka's default


class TopicLimits:
    """By topic; the broker's default where it does not tell."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self._refused = False

    def record_bytes(self, topic: str) -> int:
        """max.message.bytes of a topic."""
        return self._found.get(topic, _BROKERS_DEFAULT)

    def value_bytes(self, topic: str) -> int:
        """How large the value of one record may be: what goes through for sure."""
        return max(self.record_bytes(topic) - _ENVELOPE, 0)

    @property
    def batch_bytes(self) -> int:
        """How large a batch may be that goes to any of the topics."""
        return min([_BATCH, *(max(limit, 1) for limit in self._found.values())])

    def ask(self, admin: AdminClient, topics: Collection[str], timeout: float) -> None:
        """Ask the broker. Blocks; where that is not permitted, or not answered, what was known stands."""
        resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
        for resource, future in admin.describe_configs(resources, request_timeout=timeout).items():
            try:
                entry = future.result()["max.message.bytes"]
                self._found[resource.name] = int(entry.value)
            except KafkaException as error:
                self._not_told(resource.name, error.args[0])
            except (KeyError, TypeError, ValueError):
                continue  # the embedded broker tells nothing

    def _not_told(self, topic: str, error: KafkaError) -> None:
        if not self._refused:
            self._refused = True
            _log.warning(
                "max.message.bytes of topic %s is not told (%s): %d is assumed; DescribeConfigs on the topics would tell",
                topic, error.str(), self.record_bytes(topic),
            )  # fmt: skip
