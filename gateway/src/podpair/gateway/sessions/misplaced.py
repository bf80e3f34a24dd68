"""Records whose key names a session and whose partition is not that session's home.

A producer with another partitioner writes them, or one that has not learnt yet that the topic was widened. Positions belong
to a partition, and a session has one: its home.

Invariant: such a record never moves what its session has seen. It is counted and not delivered; but from the partition that was
the session's home until the topic was widened it is, without a position, to a client that is there.
"""

import logging
import time

from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.records import takeover_of
from podpair.gateway.core.tails import Record
from podpair.gateway.logs import ids
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.session import Session

_log = logging.getLogger(__name__)
_TOLD = 60.0  # seconds between two warnings


class Misplaced:
    """Takes the records of a batch that are in another partition than their session's home."""

    def __init__(self, topic: str, metrics: Metrics) -> None:
        self._topic = topic
        self._records = metrics.misplaced
        self._told = float("-inf")
        self._untold = 0

    def found(self, session: Session, partition: int, records: list[Record]) -> None:
        """`records` of `session` stand in `partition`."""
        found = [(record, takeover_of(record.headers(), record.offset())) for record in records]
        # A gateway that takes the topic for narrower or wider than it is announces here; who is newer does not hang on that.
        session.heed(takeover for _, takeover in found if takeover is not None)
        records = [record for record, takeover in found if takeover is None]
        if not records:
            return
        if partition == session.previous_home:
            try:
                session.deliver_unplaced(records)
            except Exception:
                # Whatever it is, it is this session's: the others get their records.
                _log.exception("delivering failed", extra=ids(session=session.id))
                session.end(CloseCode.INTERNAL, "internal error: resume")
                return
            self._records.labels("delivered").inc(len(records))
            return
        self._records.labels("dropped").inc(len(records))
        self._untold += len(records)
        now = time.monotonic()
        if now - self._told >= _TOLD:
            _log.warning(
                "%d records of %s are not in the home partition of their key, and are not delivered: %s[%d]@%d is for a session"
                " whose home is %d. Its producer has another partitioner than Kafka's default, murmur2 of the key"
                " (docs/producers.md)",
                self._untold, self._topic, self._topic, partition, records[0].offset(), session.home,
                extra=ids(session=session.id),
            )  # fmt: skip
            self._told, self._untold = now, 0
