"""A broker inside this process: librdkafka's mock cluster, which speaks Kafka's protocol on a port of 127.0.0.1.

It has groups, offsets and transactions, but no CreateTopics: a topic is there once its metadata is asked for, with four
partitions. Its data lives as long as this object.
"""

from confluent_kafka import Producer


class EmbeddedKafka:
    """One mock broker; other processes on this machine reach it at `bootstrap_servers` while it is not closed."""

    def __init__(self) -> None:
        self._owner: Producer | None = Producer(
            {"bootstrap.servers": "embedded", "test.mock.num.brokers": 1, "log_level": 0}
        )
        brokers = self._owner.list_topics(timeout=10).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def close(self) -> None:
        """End the broker and forget its data."""
        self._owner = None
