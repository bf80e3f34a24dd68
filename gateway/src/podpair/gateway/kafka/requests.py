"""Reads the requests topic as a member of the group: one thread polls, the worker on the loop decides.

Invariant: a partition that goes away is handed back only after what its worker has finished is committed; while the worker
wants nothing, partitions are paused, polling goes on and the group is not left.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from podpair.gateway.config.model import Config
from podpair.gateway.kafka.clients import fetching, properties
from podpair.gateway.kafka.threads import call_on

_log = logging.getLogger(__name__)
_POLL = 0.05  # seconds; how late a change of mind is noticed
_BLOCKED = 5.0  # seconds without room after which partitions are paused, well before max.poll.interval.ms
_REVOKE = 10.0  # seconds that a worker may take to let partitions go


class Worker(Protocol):
    """Who works on the records; everything is called on the loop's thread."""

    def assigned(self, partitions: list[int]) -> None: ...
    def received(self, records: list[Message]) -> None: ...
    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, int]: ...


class RequestsConsumer:
    """The group member. `room` is how many more records the worker takes."""

    def __init__(self, config: Config, worker: Worker) -> None:
        self._topic = config.requests.topic
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        own: dict[str, Any] = {}
        if config.requests.instance:
            own["group_instance_id"] = config.requests.instance
        self._consumer = Consumer(
            properties(
                config,
                group_id=config.requests.group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy="cooperative-sticky",
                session_timeout_ms=int(config.requests.session_timeout_seconds * 1000),
                isolation_level="read_committed",
                **fetching(config),
                **own,
            )
        )
        self._gate = threading.Condition()
        self._room = config.requests.in_flight
        self._wants_pause = False
        self._to_commit: dict[int, int] = {}
        self._paused: set[int] = set()  # partitions; the thread's own
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kafka-requests", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._thread.start()

    def give_room(self, records: int) -> None:
        """The worker is done with so many records."""
        with self._gate:
            self._room += records
            self._gate.notify()

    def set_paused(self, paused: bool) -> None:
        """Stop or go on handing over records, without leaving the group."""
        with self._gate:
            self._wants_pause = paused
            self._gate.notify()

    def commit(self, offsets: dict[int, int]) -> None:
        """Commit next offsets by partition, soon."""
        with self._gate:
            self._to_commit.update(offsets)

    def _places(self, offsets: dict[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]

    def _run(self) -> None:
        blocked = 0.0
        while True:
            with self._gate:
                if self._stopping:
                    break
                pause = self._wants_pause or blocked >= _BLOCKED
                if self._room <= 0 and not pause:
                    blocked += _POLL
                    self._gate.wait(_POLL)
                room = self._room
                offsets, self._to_commit = self._to_commit, {}
            self._commit(offsets)
            if room > 0:
                blocked = 0.0
            elif not pause:
                continue
            self._apply_pause(pause)
            first = self._consumer.poll(_POLL)
            if first is None:
                continue
            records = [first] if pause or room <= 1 else [first, *self._consumer.consume(room - 1, 0)]
            self._hand_over([r for r in records if self._is_record(r)])
        self._consumer.close()  # calls _on_revoke, and leaves the group

    def _commit(self, offsets: dict[int, int]) -> None:
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=self._places(offsets), asynchronous=True)
        except KafkaException as error:
            _log.warning("committing %s: %s", self._topic, error)

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
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            _log.warning("reading %s: %s", self._topic, error.str())
        return error is None

    def _hand_over(self, records: list[Message]) -> None:
        if not records:
            return
        with self._gate:
            self._room -= len(records)
        call_on(self._loop, self._worker.received, records)

    def _on_assign(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(place.partition for place in places)
        call_on(self._loop, self._worker.assigned, [place.partition for place in places])

    def _on_revoke(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        gone = {place.partition for place in places}
        offsets = self._let_go(self._worker.revoked(sorted(gone), lost=False))
        with self._gate:
            for partition in gone & self._to_commit.keys():
                offsets.setdefault(partition, self._to_commit.pop(partition))
        if offsets:
            try:
                consumer.commit(offsets=self._places(offsets), asynchronous=False)
            except KafkaException as error:
                _log.warning("committing %s at its revocation: %s", self._topic, error)

    def _on_lost(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        gone = {place.partition for place in places}
        self._let_go(self._worker.revoked(sorted(gone), lost=True))
        with self._gate:
            for partition in gone:
                self._to_commit.pop(partition, None)

    def _let_go(self, revoked: Awaitable[dict[int, int]]) -> dict[int, int]:
        async def wait() -> dict[int, int]:
            return await revoked

        try:
            return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(_REVOKE)
        except (TimeoutError, RuntimeError) as error:
            _log.error("the worker did not let its partitions go: %s", error)
            return {}

    async def close(self) -> None:
        """Commit what is finished and leave the group."""
        with self._gate:
            self._stopping = True
            self._gate.notify()
        await self._loop.run_in_executor(None, self._thread.join)
