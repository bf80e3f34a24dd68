"""A broker inside this process: librdkafka's mock cluster, which speaks Kafka's protocol on a port of 127.0.0.1.

It has groups, offsets and transactions, but no CreateTopics: a topic is created, with four partitions, when its metadata is
requested. Its data lives as long as this object.
"""

from confluent_kafka import Producer


class EmbeddedKafka:
    """One mock broker, which other processes on this machine reach at `bootstrap_servers` until it is closed."""

    def __init__(self) -> None:
        self._owner: Producer | None = Producer(
            {"bootstrap.servers": "embedded", "test.mock.num.brokers": 1, "log_level": 0}
        )
        brokers = self._owner.list_topics(timeout=10).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def close(self) -> None:
        """Stop the broker and drop its data."""
        self._owner = None
