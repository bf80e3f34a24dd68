"""Records as the fan-out is given them."""

from collections.abc import Sequence

from podpair.gateway.core.record_batch import PartitionRecords, Record, RecordBatch, value_size


def one_partition(keys: Sequence[bytes | None], records: Sequence[Record], partition: int = 0) -> PartitionRecords:
    """Put the records of a partition, with their keys, together."""
    batch = RecordBatch()
    batch.add([partition] * len(records), keys, records, [value_size(record) for record in records])
    return batch.partitions[partition]
