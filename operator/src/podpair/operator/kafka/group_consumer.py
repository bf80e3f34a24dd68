"""A consumer that never joins its group, and reads no records: it reads offsets, or commits them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException

from podpair.operator.core.broker_access import BrokerAccess
from podpair.operator.kafka.clients import librdkafka_log
from podpair.operator.kafka.errors import client_invalid

_T = TypeVar("_T")


class GroupConsumer:
    """The consumer, and a thread of its own for its calls, which block.

    AdminClient's list_consumer_group_offsets would need neither; but if the coordinator has just moved, librdkafka hands
    its answer to the consumer group that an AdminClient doesn't have, and the process ends (librdkafka issue 5040).
    """

    def __init__(self, access: BrokerAccess, group: str) -> None:
        """Create the consumer. Raises BrokerError if librdkafka refuses a property."""
        self._servers = access.servers
        properties: dict[str, Any] = {**dict(access.properties), "group.id": group, "enable.auto.commit": "false"}
        try:
            self._consumer = Consumer({**properties, "logger": librdkafka_log})
        except KafkaException as error:
            raise client_invalid(error) from None
        self._thread = ThreadPoolExecutor(1, "kafka-group")

    async def _run(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _cause(self) -> KafkaError | None:
        """Return why no coordinator was found, on the thread: librdkafka reports that among the consumer's records."""
        record = self._consumer.poll(0)
        return record.error() if record is not None else None

    def close(self) -> None:
        """Disconnect from the broker. Blocks."""
        self._thread.submit(self._consumer.close).result()
        self._thread.shutdown()
