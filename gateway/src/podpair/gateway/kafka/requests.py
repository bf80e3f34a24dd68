"""Reads the requests topic as a member of the group: a thread polls, the worker on the loop decides.

Such a consumer lives until it is closed, or dead; `kafka.member` replaces it.

Invariant: a revoked partition is given back only after the offsets that its worker has finished are committed; while the worker
accepts no requests, partitions are paused, polling continues and the member stays in the group.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any, Literal, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.common.logs import Throttle
from podpair.gateway.core.offsets import Commit, Committed, committed_of, incarnation_of
from podpair.gateway.core.unacked_commits import UnackedCommits
from podpair.gateway.kafka.clients import fetching, gateway_name, properties
from podpair.gateway.kafka.supervisor import CallDeadlines, is_dead
from podpair.gateway.kafka.threads import post_to_loop

_log = logging.getLogger(__name__)
_POLL = 0.05  # seconds; how late a change of the gate is noticed
_BLOCKED = 5.0  # seconds without room after which partitions are paused, well before max.poll.interval.ms
_REVOKE = 10.0  # seconds that a worker may take to release partitions
_FETCH = 120.0  # seconds until a consumer whose group's offsets can't be fetched is abandoned
_ERROR = methodcaller("error")
_CLOSE = 60.0  # seconds that committing at the end, and leaving the group, may take


GroupProtocol = Literal["classic", "consumer"]


def membership(config: Config, protocol: GroupProtocol) -> dict[str, Any]:
    """Return the properties of a group protocol. Either protocol assigns and revokes partitions incrementally."""
    requests = config.requests
    if protocol == "consumer":
        return {"group_protocol": "consumer"}  # the broker configures the rest
    return {
        "partition_assignment_strategy": "cooperative-sticky",
        "session_timeout_ms": int(requests.session_timeout_seconds * 1000),
        # The default, 3 s, is too long for a short session timeout: the group would remove the member.
        "heartbeat_interval_ms": int(min(3.0, requests.session_timeout_seconds / 3) * 1000),
    }


class Worker(Protocol):
    """Processes the records; its methods are called on the loop's thread."""

    def assigned(self, partitions: dict[int, Committed]) -> None: ...
    def received(self, records: list[Message]) -> None: ...
    def revoking(self, partitions: list[int]) -> None: ...
    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]: ...


class Gate:
    """Passes the worker's decisions to the consumer's thread; it outlives a consumer that dies."""

    def __init__(self, room: int) -> None:
        self.changed = threading.Condition()
        self.room = room  # how many more records the worker accepts
        self.wants_pause = False
        self.held = 0  # how often the consumer was kept from reading
        self.to_commit: dict[int, Commit] = {}

    def give_room(self, records: int) -> None:
        """Make room for further records: the worker has finished so many."""
        with self.changed:
            self.room += records
            self.changed.notify()

    def set_paused(self, paused: bool) -> None:
        """Pause or resume reading, without leaving the group."""
        with self.changed:
            self.wants_pause = paused
            self.held += paused
            self.changed.notify()

    def commit(self, commits: dict[int, Commit]) -> None:
        """Commit these offsets, by partition, soon."""
        with self.changed:
            self.to_commit.update(commits)


@dataclass(frozen=True, slots=True)
class MemberOptions:
    """How a consumer is a member of its group."""

    properties: dict[str, Any] | None = None
    """Its membership, as properties of librdkafka; None: as the configuration says."""
    calls: CallDeadlines = field(default_factory=CallDeadlines)
    """Watches the calls that may block."""
    incarnation: Callable[[], str] = str
    """Returns the identity of the present topic; commits of another one are ignored."""
    died: Callable[[KafkaError], object] = lambda _: None
    """Called on the loop's thread with an error that the consumer does not recover from."""


class RequestsConsumer:
    """A group member."""

    def __init__(
        self,
        config: Config,
        worker: Worker,
        gate: Gate | None = None,
        member: MemberOptions | None = None,
    ) -> None:
        member = member or MemberOptions()
        self._topic = config.requests.topic
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._calls = member.calls
        self._incarnation = member.incarnation
        self._died = member.died
        self._dead: KafkaError | None = None
        self._failure: Exception | None = None  # of a callback
        self._log_throttle = Throttle()
        # The coordinator reports this name to whoever lists the group's members.
        common: dict[str, Any] = {"client_id": f"podpair-gateway@{gateway_name()}"}
        if config.requests.group_instance_id:
            common["group_instance_id"] = config.requests.group_instance_id
        self._consumer = Consumer(
            properties(
                config,
                group_id=config.requests.group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                **fetching(config),
                **common,
                **(member.properties or membership(config, config.requests.group_protocol)),
            )
            | {"on_commit": self._guarded(self._on_commit), "error_cb": self._guarded(self._on_error)}
        )
        # Partitions whose last transaction may still be running must not be given back.
        self._transactional = config.requests.exactly_once
        self._patience = None if self._transactional else _REVOKE
        self._gate = gate or Gate(config.requests.in_flight)
        self._unacked = UnackedCommits()  # used by the thread alone
        self.membership: Any = (
            None  # identifies this member in its present generation, for transactions; updated by the thread
        )
        self._paused: set[int] = set()  # partitions; used by the thread alone
        self._revoked: set[int] = set()  # partitions that were revoked since the thread's last poll
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kafka-requests", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._guarded(self._on_assign),
            on_revoke=self._guarded(self._on_revoke),
            on_lost=self._guarded(self._on_lost),
        )
        self._thread.start()

    def _guarded(self, callback: Callable[..., object]) -> Callable[..., None]:
        """Wrap a callback so that its exception is raised after the poll: if two callbacks raise in one poll, confluent-kafka
        2.16 raises a SystemError instead.
        """

        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except KafkaException as error:
                _log.warning("the group of %s: %s", self._topic, error.args[0].str())
                self._dead = self._dead or error.args[0]
            except Exception as error:
                self._failure = self._failure or error

        return guarded

    def _places(self, commits: dict[int, Commit]) -> list[TopicPartition]:
        return [
            TopicPartition(self._topic, p, commit.offset, metadata=commit.metadata) for p, commit in commits.items()
        ]

    def _run(self) -> None:
        try:
            self._serve()
        except KafkaException as error:
            self._dead = self._dead or error.args[0]
        if self._dead is not None and not self._stopping:
            post_to_loop(self._loop, self._died, self._dead)
        with self._calls.within(_CLOSE):
            self._consumer.close()  # calls _on_revoke, and leaves the group

    def _serve(self) -> None:
        """Read until stopped, or dead."""
        blocked, renewed, gate = 0.0, 0.0, self._gate
        while self._dead is None:
            with gate.changed:
                if self._stopping:
                    break
                pause = gate.wants_pause or blocked >= _BLOCKED
                if gate.room <= 0 and not pause:
                    blocked += _POLL
                    gate.changed.wait(_POLL)
                room = gate.room
                commits, gate.to_commit = gate.to_commit, {}
            with self._calls.within(_POLL):
                self._commit(commits)
                if self._transactional and time.monotonic() >= renewed + _POLL:
                    # It waits for one of librdkafka's threads, and holds the interpreter's lock while it does.
                    self.membership, renewed = self._consumer.consumer_group_metadata(), time.monotonic()
                if room > 0:
                    blocked = 0.0
                elif not pause:
                    continue
                self._apply_pause(pause)
                first = self._consumer.poll(_POLL)
                if self._failure is not None:
                    raise self._failure
                if first is None:
                    continue
                self._revoked.clear()
                behind = [] if pause or room <= 1 else self._consumer.consume(room - 1, 0)
            # consume() may revoke the partition of the first record, and assign it again with the records before it.
            records = behind if first.partition() in self._revoked else [first, *behind]
            if {*map(type, map(_ERROR, records))} != {type(None)}:
                records = [record for record in records if self._is_record(record)]
            self._hand_over(records)

    def _on_error(self, error: KafkaError) -> None:
        if is_dead(error):
            self._dead = error
        else:
            _log.warning("kafka: %s", error.str(), extra={"kafka_error": error.name()})

    def _commit(self, commits: dict[int, Commit]) -> None:
        commits = self._unacked.send(commits, time.monotonic())
        if not commits:
            return
        try:
            self._consumer.commit(offsets=self._places(commits), asynchronous=True)
        except KafkaException as error:
            self._not_committed(set(commits), error.args[0])

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """Handle the outcome of a commit; called by poll."""
        failed = {place.partition: why for place in places if (why := place.error or error) is not None}
        if failed:
            self._not_committed(set(failed), next(iter(failed.values())))

    def _not_committed(self, partitions: set[int], error: KafkaError) -> None:
        about = {"partitions": sorted(partitions)}
        self._log_throttle.log(_log, logging.INFO, "committing %s again: %s", self._topic, error.str(), extra=about)
        self._unacked.on_failure(partitions, time.monotonic())

    def _apply_pause(self, pause: bool) -> None:
        if not pause and not self._paused:
            return
        held = {place.partition for place in self._consumer.assignment()}
        change = held - self._paused if pause else held & self._paused
        places = [TopicPartition(self._topic, partition) for partition in change]
        if places:
            (self._consumer.pause if pause else self._consumer.resume)(places)
        self._paused = held if pause else set()

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is not None and is_dead(error):
            self._dead = error
        elif error is not None and error.code() != KafkaError._PARTITION_EOF:
            _log.warning("reading %s: %s", self._topic, error.str())
        return error is None

    def _hand_over(self, records: list[Message]) -> None:
        if not records:
            return
        with self._gate.changed:
            self._gate.room -= len(records)
            self._gate.held += self._gate.room <= 0
        post_to_loop(self._loop, self._worker.received, records)

    def _on_assign(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(place.partition for place in places)
        self.membership = consumer.consumer_group_metadata()
        with self._calls.within(_FETCH + 10):
            began = self._committed(consumer, list(places))
        now = self._incarnation()
        # Commits of a topic that was deleted and created again say nothing about the new one.
        began = [
            TopicPartition(place.topic, place.partition, OFFSET_BEGINNING, metadata="")
            if now and incarnation_of(place.metadata) not in ("", now)
            else place
            for place in began
        ]
        committed = {place.partition: committed_of(place.offset, place.metadata) for place in began}
        post_to_loop(self._loop, self._worker.assigned, committed)
        consumer.incremental_assign(began)
        consumer.resume(began)  # librdkafka keeps a partition paused that was paused when it was revoked

    def _committed(self, consumer: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
        """Return where to begin. Waits for a transaction that a dead member has left open: the broker aborts it."""
        end = time.monotonic() + _FETCH
        while places:
            try:
                with self._calls.within(10):
                    found = consumer.committed(places, timeout=10)
                if all(place.error is None for place in found):
                    return [TopicPartition(p.topic, p.partition, p.offset, metadata=p.metadata or "") for p in found]
                reason = str(next(place.error for place in found if place.error is not None))
            except KafkaException as error:
                reason = error.args[0].str()
            if time.monotonic() > end:
                message = f"the committed offsets of {self._topic} can't be fetched: {reason}"
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, message))
            _log.warning("fetching the committed offsets of %s again: %s", self._topic, reason)
            time.sleep(0.2)
        return places

    def _on_revoke(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        gone = {place.partition for place in places}
        self.membership = consumer.consumer_group_metadata()
        commits = self._let_go(gone, lost=False)
        with self._gate.changed:
            for partition in gone & self._gate.to_commit.keys():
                commits.setdefault(partition, self._gate.to_commit.pop(partition))
        commits = self._unacked.release(gone) | commits
        if commits:
            try:
                with self._calls.within(_CLOSE):
                    consumer.commit(offsets=self._places(commits), asynchronous=False)
            except KafkaException as error:
                _log.warning("committing %s at its revocation: %s", self._topic, error)

    def _on_lost(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        gone = {place.partition for place in places}
        self._let_go(gone, lost=True)
        with self._gate.changed:
            for partition in gone:
                self._gate.to_commit.pop(partition, None)
        self._unacked.release(gone)

    def _let_go(self, gone: set[int], *, lost: bool) -> dict[int, Commit]:
        self._revoked |= gone
        # A separate call, because a coroutine starts a turn later: a loop that was blocked for longer than our timeout must not
        # take partitions that are assigned next for those that are revoked here.
        if not post_to_loop(self._loop, self._worker.revoking, sorted(gone)):
            return {}
        revoked = self._worker.revoked(sorted(gone), lost=lost)
        try:
            with self._calls.within(math.inf):
                return asyncio.run_coroutine_threadsafe(revoked, self._loop).result(self._patience)
        except (TimeoutError, RuntimeError) as error:
            _log.error("the worker did not release its partitions: %s", error)
            return {}

    def stop(self) -> None:
        """Leave the group, soon."""
        with self._gate.changed:
            self._stopping = True
            self._gate.changed.notify()

    async def close(self) -> None:
        """Commit what is finished and leave the group."""
        self.stop()
        await self._loop.run_in_executor(None, self._thread.join, _CLOSE)
