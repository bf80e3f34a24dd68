"""Records that are in another partition than the home of their key.

They come from a producer with another partitioner, or from one that does not know yet that the topic was widened. Positions
belong to a partition, and a session has one: its home. A record without a key belongs to nobody.

Invariant: such a record never advances its session. It is counted and not delivered, except from the partition that was the
session's home until the topic was widened: from there it is delivered without a position, if the client is connected, and an
answer is written to the home, from where it is delivered. Of keys that no session here has, a bounded number is examined, by
one gateway: the one that is responsible for the partition.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable

from podpair.common.logs import ids
from podpair.gateway.core.partitioners import MisplacedKeys
from podpair.gateway.core.partitions import HomePartitions, home_of_key
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.quotas import Bucket
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import Event, Headers, takeover_of
from podpair.gateway.core.session_ids import USER
from podpair.gateway.kafka.results import WIDENED
from podpair.gateway.kafka.unread_results import Sampled
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.log import Log

_log = logging.getLogger(__name__)
_WARN_EVERY = 60.0  # seconds between two warnings
_MOST_KEYS = 10_000  # whose home is cached
_LONGEST_KEY = 4096  # bytes; no session has a longer key, and longer ones are not examined
_KEYS_A_SECOND = 200.0


class MisplacedRecords:
    """Counts, delivers and reports misplaced records.

    responsible_for: whether this gateway counts the records of a partition that belong to nobody here. users: whether records
    that are addressed to users are read (`results.users`).
    """

    def __init__(
        self,
        topic: str,
        metrics: Metrics,
        homes: HomePartitions,
        responsible_for: Callable[[int], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
        *,
        users: bool = False,
    ) -> None:
        self._topic = topic
        self._records = metrics.misplaced
        self._homes = homes
        self.responsible_for = responsible_for
        self._clock = clock
        self._users = users
        # Key → home, of keys that no session here has; the fan-out looks each group of records up.
        self.known: dict[bytes | None, int] = {}
        self._budget = Bucket(_KEYS_A_SECOND, int(_KEYS_A_SECOND), clock())
        self._epoch, self._width = homes.epoch, homes.partitions
        self._before: tuple[int, float] | None = (
            None  # the topic's former width, and until when producers may still use it
        )
        self._keys = MisplacedKeys()
        self._warned_at = {kind: float("-inf") for kind in ("key", "keyless", "user")}
        self._unreported = dict.fromkeys(self._warned_at, 0)

    def handle(self, session: Log, partition: int, records: list[Record]) -> list[Event]:
        """Handle `records` of a session that is here, or of its user, which are in `partition`.

        Returns answers that are to be written to the session's home: what is only sent is gone with the client's connection.
        """
        found = [(record, takeover_of(record[2], record[0])) for record in records]
        # A gateway with an outdated width of the topic announces takeovers here; they count all the same.
        session.apply_takeovers(takeover for _, takeover in found if takeover is not None)
        records = [record for record, takeover in found if takeover is None]
        if not records:
            return []
        if partition == session.previous_home:
            answers, others = session.take_answers(records)
            try:
                if others:
                    session.deliver_unplaced(others)
            except Exception:
                # Whatever failed concerns this session only: the others get their records.
                _log.exception("delivering failed", extra=ids(session=session.id))
                session.end(CloseCode.INTERNAL, "internal error: resume")
            else:
                self._records.labels("delivered").inc(len(others))
            return answers
        self._count("dropped", session.id.encode(), partition, session.home, records[0][0], len(records))
        return []

    def handle_unclaimed(self, partition: int, key: bytes | None, records: Collection[Record]) -> int:
        """Handle records with a key that no session here has. Return how many are known to be misplaced."""
        if key is None:
            return self._keyless(partition, [offset for offset, _, _ in records])
        home = self._home(key)
        self._if_a_user(key, partition, home)
        if home is None or home == partition or not self.responsible_for(partition) or self._excused(key, partition):
            return 0
        return self._not_taken_over(
            "unclaimed", key, partition, home, ((offset, headers) for offset, _, headers in records)
        )

    def handle_sampled(self, partition: int, records: Iterable[Sampled], sessions: Collection[bytes]) -> int:
        """Handle samples of a partition that is not read here. Return how many are known to be misplaced.

        sessions: the keys of the sessions that are here.
        """
        by_key: dict[bytes | None, list[tuple[int, Headers | None]]] = {}
        for record in records:
            by_key.setdefault(record.key, []).append((record.offset, record.headers))
        count = 0
        for key, found in by_key.items():
            if key is None:
                count += self._keyless(partition, [offset for offset, _ in found])
                continue
            home = self._home(key)
            self._if_a_user(key, partition, home)
            if home is not None and home != partition and not self._excused(key, partition):
                outcome = "dropped" if key in sessions else "unclaimed"
                count += self._not_taken_over(outcome, key, partition, home, found)
        return count

    def _home(self, key: bytes) -> int | None:
        """Return the home of a key; None: not computed, because there are too many new keys."""
        if self._homes.epoch != self._epoch:
            self._changed()
        home = self.known.get(key)
        if home is None:
            if len(key) > _LONGEST_KEY or self._budget.acquire(self._clock()):
                return None
            if len(self.known) >= _MOST_KEYS:
                self.known.clear()
            home = self.known[key] = home_of_key(key, self._width)
        return home

    def _changed(self) -> None:
        """Forget the homes of keys: the topic was replaced or widened."""
        widened = self._epoch in self._homes.siblings and self._homes.partitions > self._width
        self._before = (self._width, self._clock() + WIDENED) if widened else None
        self._epoch, self._width = self._homes.epoch, self._homes.partitions
        self.known.clear()
        self._keys.reset()

    def _excused(self, key: bytes, partition: int) -> bool:
        """Return whether the record is in the home by the former width, and its producer may not know the new one yet."""
        if self._before is None:
            return False
        width, until = self._before
        return self._clock() < until and home_of_key(key, width) == partition

    def _not_taken_over(
        self, outcome: str, key: bytes, partition: int, home: int, records: Iterable[tuple[int, Headers | None]]
    ) -> int:
        """Count those of the records that are not takeovers."""
        offsets = [offset for offset, headers in records if takeover_of(headers, offset) is None]
        if offsets:
            self._count(outcome, key, partition, home, offsets[0], len(offsets))
        return len(offsets)

    def _count(self, outcome: str, key: bytes, partition: int, home: int, offset: int, count: int) -> None:
        self._records.labels(outcome).inc(count)
        self._keys.add(key, partition, self._homes.partitions)
        if (unreported := self._due("key", count)) is not None:
            cause = self._keys.cause()
            share = f" (true of {cause.explained} of {cause.keys} keys)" if cause.explained else ""
            _log.warning(
                "%d records of %s are not in the home partition of their key, and are not delivered: the key of %s[%d]@%d has its"
                " home in %d. Likely cause at their producer: %s%s; %s (docs/producers.md)",
                unreported, self._topic, self._topic, partition, offset, home, cause.text, share, cause.remedy,
                extra=ids(session=key.decode(errors="replace")[:200]),
            )  # fmt: skip

    def _if_a_user(self, key: bytes, partition: int, home: int | None) -> None:
        """Warn of a record that is addressed to a user if such records are not read."""
        unread = home == partition and not self._users and key.startswith(USER) and self.responsible_for(partition)
        if unread and self._due("user", 1) is not None:
            _log.warning(
                "records of %s are addressed to users, which are not read: %s[%d] has one with the key %s. Set results.users"
                " at all gateways (in the resource kafka.results.users)",
                self._topic, self._topic, partition, key.decode(errors="replace")[:200],
            )  # fmt: skip

    def _keyless(self, partition: int, offsets: list[int]) -> int:
        if not self.responsible_for(partition):
            return 0
        self._records.labels("keyless").inc(len(offsets))
        if (unreported := self._due("keyless", len(offsets))) is not None:
            _log.warning(
                "%d records of %s have no key, and so belong to nobody: %s[%d]@%d. Their producer has to set the key to the"
                " session's id (docs/producers.md)",
                unreported, self._topic, self._topic, partition, offsets[0],
            )  # fmt: skip
        return len(offsets)

    def _due(self, kind: str, count: int) -> int | None:
        """Return how many to report now; None: they are reported later."""
        self._unreported[kind] += count
        now = self._clock()
        if now - self._warned_at[kind] < _WARN_EVERY:
            return None
        unreported, self._unreported[kind], self._warned_at[kind] = self._unreported[kind], 0, now
        return unreported
