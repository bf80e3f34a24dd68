"""Topics that are made, deleted, widened and cut from outside, as people and other programs do."""

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from confluent_kafka.cimpl import NewTopic

from harness.waiting import until

_TIMEOUT = 15.0


class TopicAdmin:
    """Somebody else's admin client of a broker."""

    def __init__(self, address: str) -> None:
        self.admin = AdminClient({"bootstrap.servers": address, "log_level": 0, "allow.auto.create.topics": False})

    def create(self, name: str, partitions: int, **config: object) -> None:
        """Create a topic; config names have underscores for dots. Returns when the broker tells of it."""
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}

        def created() -> bool:
            made = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
            try:
                self.admin.create_topics([made])[name].result(_TIMEOUT)
            except KafkaException as error:
                # One of this name that was just deleted may not be gone yet.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
                return False
            return True

        until(created, f"{name} is there already", _TIMEOUT)
        self._told(name, partitions)

    def _told(self, name: str, partitions: int) -> None:
        until(
            lambda: len(self.admin.list_topics(name, timeout=_TIMEOUT).topics[name].partitions) == partitions,
            f"no broker tells of {partitions} partitions of {name}",
            _TIMEOUT,
        )

    def delete(self, *names: str) -> None:
        """Delete topics."""
        for future in self.admin.delete_topics(list(names), operation_timeout=_TIMEOUT).values():
            future.result(_TIMEOUT)

    def recreate(self, name: str, partitions: int, **config: object) -> None:
        """Delete a topic and create it anew, at once."""
        self.delete(name)
        self.create(name, partitions, **config)

    def widen(self, name: str, partitions: int) -> None:
        """Add partitions until there are so many."""
        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result(_TIMEOUT)
        self._told(name, partitions)

    def cut(self, name: str, partition: int, offset: int) -> None:
        """Delete the records before `offset`; -1: all that there are."""
        for future in self.admin.delete_records([TopicPartition(name, partition, offset)]).values():
            future.result(_TIMEOUT)
