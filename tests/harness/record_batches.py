"""Records as the fan-out is given them, and messages that they are made of."""

from collections.abc import Sequence

from podpair.gateway.core.record_batch import PartitionRecords, Record, RecordBatch, value_size


def one_partition(keys: Sequence[bytes | None], records: Sequence[Record], partition: int = 0) -> PartitionRecords:
    """Put the records of a partition, with their keys, together."""
    batch = RecordBatch()
    batch.add([partition] * len(records), keys, records, [value_size(record) for record in records])
    return batch.partitions[partition]


class FakeMessage:
    """A message of a consumer; the members that a batch asks for, on a class as confluent_kafka has it."""

    def __init__(self, value: bytes = b"x", failed: object = None, partition: int = 0) -> None:
        self._value, self._failed, self._partition = value, failed, partition

    def error(self) -> object:
        return self._failed

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return 0

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return self._value

    def headers(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self._value)
