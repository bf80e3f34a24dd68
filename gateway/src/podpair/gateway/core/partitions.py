"""Where a session's results are: its home partition.

Invariant: `home_partition` is Kafka's own default partitioner, so that any producer in any language which keys a record
by session id writes it where the session's gateway reads.
"""

import secrets
from collections.abc import Callable, Collection, Container

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995


def murmur2(data: bytes) -> int:
    """Return the unsigned 32-bit murmur2 hash of Kafka's Java client.

    Source: org.apache.kafka.common.utils.Utils.murmur2 (seed 0x9747b28c, little-endian words).
    """
    length = len(data)
    h = (0x9747B28C ^ length) & _MASK
    whole = length & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    tail = data[whole:]
    if tail:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


def home_partition(session: str, partitions: int) -> int:
    """Return the partition, 0 ≤ p < `partitions`, of the results topic that holds everything for `session`."""
    return home_of_key(session.encode(), partitions)


def home_of_key(key: bytes, partitions: int) -> int:
    """Return the home partition for a record's key, whatever the key names."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


class HomePartitions:
    """Where sessions' results are in the present incarnation of the results topic, which `epoch` names.

    `siblings` are the epochs that the same topic has or had with other numbers of partitions.
    """

    def __init__(self, epoch: str, partitions: int, siblings: Container[str] = ()) -> None:
        self.change(epoch, partitions, siblings)

    def change(self, epoch: str, partitions: int, siblings: Container[str] = ()) -> None:
        """Take over a topic that was made again, or has another number of partitions."""
        self.epoch = epoch
        self.partitions = partitions
        self.siblings = siblings

    def of(self, session: str) -> int:
        """Return the home partition of a session."""
        return home_partition(session, self.partitions)


def _new_id() -> str:
    return f"s-{secrets.token_hex(8)}"


def mint_session_id(owned: Collection[int], partitions: int, new_id: Callable[[], str] = _new_id) -> str:
    """Mint a session id whose home is among `owned`, so that a pod reads only its share of the results.

    That share is an optimisation: if it can't be had (nothing owned, or a topic of another width) any id will do.
    Tries are bounded; their expected number is partitions / len(owned).
    """
    wanted = {p for p in owned if 0 <= p < partitions}
    candidate = new_id()
    if not wanted or len(wanted) == partitions:
        return candidate
    for _ in range(64 * partitions):
        if home_partition(candidate, partitions) in wanted:
            break
        candidate = new_id()
    return candidate
