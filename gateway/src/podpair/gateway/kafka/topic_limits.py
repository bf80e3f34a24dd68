"""The record size limit of each topic: `max.message.bytes`, which the gateway's own clients have to respect.

Kafka applies it to a whole batch, so that a batch of small records may be too large as well.
"""

import logging
from collections.abc import Collection

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

_log = logging.getLogger(__name__)
_BROKERS_DEFAULT = 1_048_588  # bytes; default of message.max.bytes
_ENVELOPE = 2048  # bytes of a record's headers and its batch, besides its value, at most about
_BATCH = 1_000_000  # bytes of a batch, unless a topic's limit is lower; librdkafka's default


class TopicLimits:
    """The limits by topic; the broker's default for unknown ones."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self._refused = False

    def record_bytes(self, topic: str) -> int:
        """Return max.message.bytes of a topic."""
        return self._found.get(topic, _BROKERS_DEFAULT)

    def value_bytes(self, topic: str) -> int:
        """Return how large the value of one record may be at least."""
        return max(self.record_bytes(topic) - _ENVELOPE, 0)

    @property
    def batch_bytes(self) -> int:
        """The largest batch size that all of the topics accept."""
        return min([_BATCH, *(max(limit, 1) for limit in self._found.values())])

    def ask(self, admin: AdminClient, topics: Collection[str], timeout: float) -> None:
        """Query the broker. Blocks. If that is not permitted, or not answered, known limits stay."""
        resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
        for resource, future in admin.describe_configs(resources, request_timeout=timeout).items():
            try:
                entry = future.result()["max.message.bytes"]
                self._found[resource.name] = int(entry.value)
            except KafkaException as error:
                self._warn_unknown(resource.name, error.args[0])
            except (KeyError, TypeError, ValueError):
                continue  # the embedded broker returns nothing

    def _warn_unknown(self, topic: str, error: KafkaError) -> None:
        if not self._refused:
            self._refused = True
            _log.warning(
                "max.message.bytes of topic %s is unknown (%s): %d is assumed; grant DescribeConfigs on the topics",
                topic, error.str(), self.record_bytes(topic),
            )  # fmt: skip
