"""The group of delivery workers: a thread reads the topics, and all subscriptions that were there before a record was read.

Invariants: a record is handed on only after every subscription that was acknowledged before the record was read; a partition is
given back after what was delivered of it is committed.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.cloud_events import Headers
from podpair.gateway.core.offsets import Commit, Committed, committed_of, incarnation_of
from podpair.gateway.deliveries.subscription_log import SubscriptionLog, SubscriptionRecord
from podpair.gateway.kafka.clients import fetching, gateway_name, properties
from podpair.gateway.kafka.headers import headers_of
from podpair.gateway.kafka.supervisor import CallDeadlines, is_dead
from podpair.gateway.kafka.threads import post_to_loop

_log = logging.getLogger(__name__)
_POLL = 0.05  # seconds
_BATCH = 500  # records
_QUERY = 10.0  # seconds that one query of the group may take
_CLOSE = 60.0  # seconds that committing at the end, and leaving the group, may take
_COMMIT = 0.25  # seconds between commits
_COUNT = 2.0  # seconds between two looks at how much waits

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


class Record(NamedTuple):
    """A record as it was read."""

    partition: Partition
    offset: int
    timestamp: int  # Unix milliseconds
    key: bytes | None
    value: bytes | None
    headers: Headers | None


class Listener(Protocol):
    """Hears of records, on the loop's thread."""

    def assigned(self, partitions: dict[Partition, Committed]) -> None: ...
    def subscriptions_read(self, records: list[SubscriptionRecord], *, anew: bool) -> None: ...
    def received(self, records: list[Record]) -> None: ...
    def collect_commits(self) -> None: ...
    def waiting_in_kafka(self, records: int) -> None: ...
    def revoked(self, partitions: list[Partition], *, lost: bool) -> Coroutine[Any, Any, dict[Partition, Commit]]: ...
    def died(self, error: KafkaError) -> None: ...


class Wishes:
    """What the worker wants of the thread; it outlives a consumer that dies."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.paused: frozenset[Partition] = frozenset()
        self.commits: dict[Partition, Commit] = {}


class DeliveryConsumer:
    """One member of the group. incarnation: returns how commits name a topic."""

    def __init__(
        self,
        config: Config,
        listener: Listener,
        wishes: Wishes,
        calls: CallDeadlines,
        incarnation: Callable[[str], str],
    ) -> None:
        self._config = config
        self._results = config.results.topic
        self._topics = [config.results.topic, config.deliveries.retry_topic, config.deliveries.ordered_topic]
        self._listener = listener
        self._wishes = wishes
        self._calls = calls
        self._incarnation = incarnation
        self._patience = config.deliveries.timeout_seconds + 10
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._failure: Exception | None = None  # of a callback
        self._paused: set[Partition] = set()
        self._consumer = Consumer(
            properties(
                config,
                group_id=f"{config.requests.group}.deliveries",
                client_id=f"podpair-gateway@{gateway_name()}",
                enable_auto_commit=False,
                # A subscription names the time from which it counts: what is older concerns nobody.
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                partition_assignment_strategy="cooperative-sticky",
                session_timeout_ms=int(config.requests.session_timeout_seconds * 1000),
                heartbeat_interval_ms=int(min(3.0, config.requests.session_timeout_seconds / 3) * 1000),
                queued_max_messages_kbytes=8192,
                **fetching(config),
            )
        )
        self._thread = threading.Thread(target=self._run, name="kafka-deliveries", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the group, soon."""
        self._stopping.set()

    async def close(self) -> None:
        """Commit what was delivered, and leave the group."""
        self.stop()
        await self._loop.run_in_executor(None, self._thread.join, _CLOSE + self._patience)

    def _run(self) -> None:
        log: SubscriptionLog | None = None
        try:
            log = SubscriptionLog(self._config)
            with self._calls.within(4 * _QUERY):
                post_to_loop(self._loop, self._subscriptions_read, log.read_all(), True)
            self._consumer.subscribe(
                self._topics,
                on_assign=self._guarded(self._on_assign),
                on_revoke=self._guarded(lambda places: self._let_go(places, lost=False)),
                on_lost=self._guarded(lambda places: self._let_go(places, lost=True)),
            )
            self._serve(log)
        except KafkaException as error:
            if not self._stopping.is_set():
                post_to_loop(self._loop, self._listener.died, error.args[0])
        except Exception as error:
            _log.exception("reading for deliveries")
            if not self._stopping.is_set():
                failed = KafkaError(KafkaError._FAIL, f"internal error: {type(error).__name__}")
                post_to_loop(self._loop, self._listener.died, failed)
        finally:
            with self._calls.within(_CLOSE + self._patience):
                self._consumer.close()  # gives the partitions back, and leaves the group
            if log is not None:
                log.close()

    def _subscriptions_read(self, records: list[SubscriptionRecord], anew: bool) -> None:
        self._listener.subscriptions_read(records, anew=anew)

    def _guarded(self, callback: Callable[[Sequence[TopicPartition]], None]) -> Callable[..., None]:
        """Wrap a callback so that its exception is raised after the poll."""

        def guarded(_: Consumer, places: Sequence[TopicPartition]) -> None:
            try:
                callback(places)
            except Exception as error:
                self._failure = self._failure or error

        return guarded

    def _serve(self, log: SubscriptionLog) -> None:
        committed = counted = time.monotonic()
        while not self._stopping.is_set():
            with self._calls.within(2 * _QUERY):
                self._apply_pauses()
                first = self._consumer.poll(_POLL)
                messages = [first, *self._consumer.consume(_BATCH, 0)] if first is not None else []
                if self._failure is not None:
                    raise self._failure
                records = self._records(messages)
                # Those that were acknowledged by now: their owners count on getting what follows. What waits counts on it, too:
                # another gateway has read the subscription that this one may not know yet.
                news = log.read_all() if records else log.read_some()
            if (records or news) and not self._hand_over(news, records):
                return
            if time.monotonic() - committed >= _COMMIT:
                committed = time.monotonic()
                with self._calls.within(2 * _QUERY):
                    self._commit()
                post_to_loop(self._loop, self._listener.collect_commits)
            if time.monotonic() - counted >= _COUNT:
                counted = time.monotonic()
                self._count_waiting()

    def _records(self, messages: list[Message]) -> list[Record]:
        found = [message for message in messages if self._is_record(message)]
        return [_record(message, headers) for message, headers in zip(found, headers_of(found), strict=True)]

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if is_dead(error):
            raise KafkaException(error)
        if error.code() != KafkaError._PARTITION_EOF:
            _log.warning("reading for deliveries: %s", error.str())
        return False

    def _hand_over(self, news: list[SubscriptionRecord], records: list[Record]) -> bool:
        """Hand records on, and wait until the loop has taken them. Return False if it has ended."""
        taken = threading.Event()

        def take() -> None:
            try:
                if news:
                    self._listener.subscriptions_read(news, anew=False)
                self._listener.received(records)
            finally:
                taken.set()

        if not post_to_loop(self._loop, take):
            return False
        while not taken.wait(1.0):
            if self._stopping.is_set() or self._loop.is_closed():
                return False
        return True

    def _apply_pauses(self) -> None:
        with self._wishes.lock:
            wanted = self._wishes.paused
        held = (
            {(place.topic, place.partition) for place in self._consumer.assignment()}
            if wanted or self._paused
            else set()
        )
        for change, apply in ((held & wanted - self._paused, "pause"), (held & self._paused - wanted, "resume")):
            if change:
                getattr(self._consumer, apply)([TopicPartition(*partition) for partition in change])
        self._paused = held & wanted

    def _places(self, commits: dict[Partition, Commit]) -> list[TopicPartition]:
        return [
            TopicPartition(*partition, commit.offset, metadata=commit.metadata) for partition, commit in commits.items()
        ]

    def _commit(self) -> None:
        with self._wishes.lock:
            commits, self._wishes.commits = self._wishes.commits, {}
        if not commits:
            return
        try:
            self._consumer.commit(offsets=self._places(commits), asynchronous=False)
        except KafkaException as error:
            if is_dead(error.args[0]):
                raise
            _log.info("committing deliveries again: %s", error.args[0].str())
            with self._wishes.lock:
                self._wishes.commits = commits | self._wishes.commits

    def _count_waiting(self) -> None:
        """Tell how many deliveries are in the log and not read yet, of the partitions held here."""
        places = [place for place in self._consumer.assignment() if place.topic != self._results]
        unread = 0
        for place in self._consumer.position(places) if places else ():
            # Asked anew: of a partition that is paused the client knows no end.
            with self._calls.within(2 * _QUERY):
                ends = self._consumer.get_watermark_offsets(place, timeout=_QUERY)
            if ends is not None:
                unread += max(0, int(ends[1]) - max(place.offset, int(ends[0])))
        post_to_loop(self._loop, self._listener.waiting_in_kafka, unread)

    def _on_assign(self, places: Sequence[TopicPartition]) -> None:
        with self._calls.within(2 * _QUERY):
            found = self._consumer.committed(list(places), timeout=_QUERY)
        began = []
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
            now, metadata = self._incarnation(place.topic), place.metadata or ""
            # A commit of a topic that was deleted and made again says nothing about this one.
            another = now and incarnation_of(metadata) not in ("", now)
            offset = OFFSET_BEGINNING if another else place.offset
            began.append(TopicPartition(place.topic, place.partition, offset, metadata="" if another else metadata))
        commits = {(place.topic, place.partition): committed_of(place.offset, place.metadata) for place in began}
        self._paused -= commits.keys()
        post_to_loop(self._loop, self._listener.assigned, commits)
        self._consumer.incremental_assign(began)
        self._consumer.resume(began)  # librdkafka keeps a partition paused that was paused when it was revoked

    def _let_go(self, places: Sequence[TopicPartition], *, lost: bool) -> None:
        gone = [(place.topic, place.partition) for place in places]
        commits: dict[Partition, Commit] = {}
        revoked = self._listener.revoked(gone, lost=lost)
        try:
            ending = asyncio.run_coroutine_threadsafe(revoked, self._loop)
        except RuntimeError:  # the loop is closed
            revoked.close()
            return
        try:
            with self._calls.within(self._patience + 5):
                commits = ending.result(self._patience)
        except TimeoutError:
            ending.cancel()
            _log.warning("deliveries of partitions that are given back did not end in %.0f s", self._patience)
        with self._wishes.lock:
            for partition in gone:
                if (commit := self._wishes.commits.pop(partition, None)) is not None:
                    commits.setdefault(partition, commit)
        if commits and not lost:
            try:
                with self._calls.within(2 * _QUERY):
                    self._consumer.commit(offsets=self._places(commits), asynchronous=False)
            except KafkaException as error:
                _log.warning("committing deliveries as partitions are given back: %s", error.args[0].str())


def _record(message: Message, headers: Headers | None) -> Record:
    partition = (cast("str", message.topic()), cast("int", message.partition()))
    key: Any = message.key()
    return Record(partition, cast("int", message.offset()), message.timestamp()[1], key, message.value(), headers)
