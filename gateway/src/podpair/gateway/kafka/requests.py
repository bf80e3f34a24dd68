"""Reads the requests topic as a member of the group: one thread polls, the worker on the loop decides.

One such consumer lives until it is closed, or dead; `kafka.member` makes another in its place.

Invariant: a partition that goes away is handed back only after what its worker has finished is committed; while the worker
wants nothing, partitions are paused, polling goes on and the group is not left.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.core.commits import UnsettledCommits
from podpair.gateway.core.offsets import Commit, Committed, committed_of, incarnation_of
from podpair.gateway.kafka.clients import fetching, gateway_name, properties
from podpair.gateway.kafka.supervisor import Calls, is_dead
from podpair.gateway.kafka.threads import call_on
from podpair.gateway.logs import Throttle

_log = logging.getLogger(__name__)
_POLL = 0.05  # seconds; how late a change of mind is noticed
_BLOCKED = 5.0  # seconds without room after which partitions are paused, well before max.poll.interval.ms
_REVOKE = 10.0  # seconds that a worker may take to let partitions go
_FETCH = 120.0  # seconds until a group whose offsets can't be learnt is given up
_CLOSE = 60.0  # seconds that committing at the end, and leaving the group, may take


GroupProtocol = Literal["classic", "consumer"]


def membership(config: Config, protocol: GroupProtocol) -> dict[str, Any]:
    """How the group agrees on who has which partition; either way partitions come and go one by one."""
    requests = config.requests
    if protocol == "consumer":
        return {"group_protocol": "consumer"}  # the rest is the broker's to say
    return {
        "partition_assignment_strategy": "cooperative-sticky",
        "session_timeout_ms": int(requests.session_timeout_seconds * 1000),
        # The default, 3 s, would be too late for a short session: the group would take the member for dead.
        "heartbeat_interval_ms": int(min(3.0, requests.session_timeout_seconds / 3) * 1000),
    }


class Worker(Protocol):
    """Who works on the records; everything is called on the loop's thread."""

    def assigned(self, partitions: dict[int, Committed]) -> None: ...
    def received(self, records: list[Message]) -> None: ...
    def taken(self, partitions: list[int]) -> None: ...
    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]: ...


class Gate:
    """What the worker tells the consumer's thread; it outlasts a consumer that dies."""

    def __init__(self, room: int) -> None:
        self.changed = threading.Condition()
        self.room = room  # how many more records the worker takes
        self.wants_pause = False
        self.held = 0  # how often the consumer was kept from reading
        self.to_commit: dict[int, Commit] = {}

    def give_room(self, records: int) -> None:
        """The worker is done with so many records."""
        with self.changed:
            self.room += records
            self.changed.notify()

    def set_paused(self, paused: bool) -> None:
        """Stop or go on handing over records, without leaving the group."""
        with self.changed:
            self.wants_pause = paused
            self.held += paused
            self.changed.notify()

    def commit(self, commits: dict[int, Commit]) -> None:
        """Commit, by partition, soon."""
        with self.changed:
            self.to_commit.update(commits)


class RequestsConsumer:
    """A group member. `died` hears, on the loop's thread, of an error that it does not recover from.

    incarnation: names the topic that there is now; a commit of another one says nothing about it.
    """

    def __init__(
        self,
        config: Config,
        worker: Worker,
        gate: Gate | None = None,
        *,
        calls: Calls | None = None,
        own: dict[str, Any] | None = None,
        incarnation: Callable[[], str] = str,
        died: Callable[[KafkaError], object] = lambda _: None,
    ) -> None:
        self._topic = config.requests.topic
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._calls = calls or Calls()
        self._incarnation = incarnation
        self._died = died
        self._dead: KafkaError | None = None
        self._failure: Exception | None = None  # of a callback
        self._told = Throttle()
        # Who asks the coordinator is told whose partition it is.
        common: dict[str, Any] = {"client_id": f"podpair-gateway@{gateway_name()}"}
        if config.requests.instance:
            common["group_instance_id"] = config.requests.instance
        self._consumer = Consumer(
            properties(
                config,
                group_id=config.requests.group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                **fetching(config),
                **common,
                **(membership(config, config.requests.protocol) if own is None else own),
            )
            | {"on_commit": self._guarded(self._on_commit), "error_cb": self._guarded(self._on_error)}
        )
        # Partitions whose last transaction may still be under way must not be handed on.
        self._patience = None if config.requests.exactly_once else _REVOKE
        self._gate = gate or Gate(config.requests.in_flight)
        self._unsettled = UnsettledCommits()  # the thread's own
        self.membership: Any = None  # names this member in its present generation; as new as the thread's last turn
        self._paused: set[int] = set()  # partitions; the thread's own
        self._taken: set[int] = set()  # partitions that the group took away since the thread's last poll
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
        """A callback whose exception waits until its poll has returned: where two of them raise in one poll, confluent-kafka
        2.16 raises neither, but a SystemError.
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
            call_on(self._loop, self._died, self._dead)
        with self._calls.within(_CLOSE):
            self._consumer.close()  # calls _on_revoke, and leaves the group

    def _serve(self) -> None:
        """Read until told to stop, or dead."""
        blocked, gate = 0.0, self._gate
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
                self.membership = self._consumer.consumer_group_metadata()
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
                self._taken.clear()
                behind = [] if pause or room <= 1 else self._consumer.consume(room - 1, 0)
            # Its partition may be taken away in there, and be given back with what stands before it.
            records = behind if first.partition() in self._taken else [first, *behind]
            self._hand_over([r for r in records if self._is_record(r)])

    def _on_error(self, error: KafkaError) -> None:
        if is_dead(error):
            self._dead = error
        else:
            _log.warning("kafka: %s", error.str(), extra={"kafka_error": error.name()})

    def _commit(self, commits: dict[int, Commit]) -> None:
        commits = self._unsettled.send(commits, time.monotonic())
        if not commits:
            return
        try:
            self._consumer.commit(offsets=self._places(commits), asynchronous=True)
        except KafkaException as error:
            self._not_committed(set(commits), error.args[0])

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """What became of a commit; called by poll."""
        failed = {place.partition: why for place in places if (why := place.error or error) is not None}
        if failed:
            self._not_committed(set(failed), next(iter(failed.values())))

    def _not_committed(self, partitions: set[int], error: KafkaError) -> None:
        about = {"partitions": sorted(partitions)}
        self._told.log(_log, logging.INFO, "committing %s again: %s", self._topic, error.str(), extra=about)
        self._unsettled.failed(partitions, time.monotonic())

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
        call_on(self._loop, self._worker.received, records)

    def _on_assign(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(place.partition for place in places)
        self.membership = consumer.consumer_group_metadata()
        with self._calls.within(_FETCH + 10):
            began = self._committed(consumer, list(places))
        now = self._incarnation()
        # The topic was made again: what was finished of another one is not this one's.
        began = [
            TopicPartition(place.topic, place.partition, OFFSET_BEGINNING, metadata="")
            if now and incarnation_of(place.metadata) not in ("", now)
            else place
            for place in began
        ]
        committed = {place.partition: committed_of(place.offset, place.metadata) for place in began}
        call_on(self._loop, self._worker.assigned, committed)
        consumer.incremental_assign(began)
        consumer.resume(began)  # librdkafka keeps the pause of a partition that was paused when it was taken away

    def _committed(self, consumer: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
        """Where to begin. A transaction that a dead member has left open is waited for: the broker ends it."""
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
                message = f"where {self._topic} was worked on last can't be learnt: {reason}"
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, message))
            _log.warning("asking again where %s was worked on last: %s", self._topic, reason)
            time.sleep(0.2)
        return places

    def _on_revoke(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        gone = {place.partition for place in places}
        self.membership = consumer.consumer_group_metadata()
        commits = self._let_go(gone, lost=False)
        with self._gate.changed:
            for partition in gone & self._gate.to_commit.keys():
                commits.setdefault(partition, self._gate.to_commit.pop(partition))
        commits = self._unsettled.give_back(gone) | commits
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
        self._unsettled.give_back(gone)

    def _let_go(self, gone: set[int], *, lost: bool) -> dict[int, Commit]:
        self._taken |= gone
        # Of its own: a loop that stood still for longer than our patience must not take what is given back next for what is
        # taken away here, and a coroutine begins a turn later.
        if not call_on(self._loop, self._worker.taken, sorted(gone)):
            return {}
        revoked = self._worker.revoked(sorted(gone), lost=lost)
        try:
            with self._calls.within(math.inf):
                return asyncio.run_coroutine_threadsafe(revoked, self._loop).result(self._patience)
        except (TimeoutError, RuntimeError) as error:
            _log.error("the worker did not let its partitions go: %s", error)
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
