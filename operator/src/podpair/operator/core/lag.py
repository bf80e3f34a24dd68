"""Lag: how many queued requests wait. Unknown is unknown: one offset that isn't known makes the sum unknown.

A partition's lag is end − max(committed, log start): records that retention deleted can't be processed. A partition that the
group never committed counts from its log start, since that is where a gateway begins (auto.offset.reset=earliest); so does one
whose committed offset is beyond the end, as after a topic was recreated. The end is the last stable offset, which is what a
gateway (read_committed) can see. A producer that writes requests in transactions leaves markers that count as one record.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Log(NamedTuple):
    """One partition: offsets from `start` up to, but without, `end`."""

    start: int
    end: int


def partition_lag(log: Log, committed: int | None) -> int:
    """Records between the group and the end. `committed` is the next offset to read; None: there is none."""
    if committed is None or committed > log.end:
        committed = log.start
    return log.end - min(max(committed, log.start), log.end)


def total_lag(logs: Mapping[int, Log], committed: Mapping[int, int | None], partitions: Sequence[int]) -> int | None:
    """Return the sum over `partitions`, by number; None if a partition isn't in `logs` and in `committed`."""
    if not partitions or any(number not in logs or number not in committed for number in partitions):
        return None
    return sum(partition_lag(logs[number], committed[number]) for number in partitions)
