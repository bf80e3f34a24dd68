"""Subscriptions begin at a position, and follow the results topic when it changes.

Invariant: as of a session's own log: between the client's position and the first live record nothing is missed and nothing is
delivered twice, and what can't be had is declared.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException

from podpair.common.logs import ids
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.positions import Position
from podpair.gateway.core.protocol import CloseCode, event
from podpair.gateway.core.records import control_event
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.resume import ResumeService
from podpair.gateway.sessions.subscription import Channel, Subscription
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_Lows = Mapping[int, "asyncio.Task[int | None]"]


class SubscriptionResume:
    """Begins and moves subscriptions."""

    def __init__(self, homes: HomePartitions, resume: ResumeService) -> None:
        self._homes = homes
        self._resume = resume
        self._tasks = Tasks()

    async def begin(self, log: Subscription, connection: Connection, position: Position | None) -> None:
        """Begin a subscription at a position, or now if there is none; return when it is live. Raises KafkaException.

        The client hears `subscribed`, then of a gap, if there is one. The caller holds a lease on the log's home.
        """
        moves = -1
        while moves != log.moves:  # else the topic has changed
            moves = log.moves
            begin = await self._resume.plan(log, position)
        if log.connection is not connection:
            return
        epoch = self._homes.epoch
        log.update_position_prefix(epoch)
        log.seen = begin.start - 1
        end = log.position(epoch, log.seen)
        # A client that is cut before it has got the gap comes back with the position that it had.
        known = end if begin.gap is None else position
        payload = event("subscribed", id=log.asked, channel=log.channel, position=str(known))
        connection.send_unlogged((control_event("subscribed", payload),))
        if begin.gap is not None:
            self._resume.send_gap(log, connection, position, end, begin.gap.reason)
        await self._resume.catch_up(log, connection, begin.start)

    def topic_changed(self, channels: Iterable[Channel], *, widened: bool, before: str) -> None:
        """Move subscriptions to their homes in the changed topic; their clients get a gap, and go on there."""
        lows: dict[int, asyncio.Task[int | None]] = {}
        for channel in channels:
            home = self._homes.of(channel.key)
            for log in channel.subscriptions:
                reached, begun = log.position(before, log.seen), bool(log.epoch)
                log.move(home, log.home if widened else None)
                connection = log.connection
                if connection is not None and begun:  # the others will begin in the new topic
                    if home not in lows:
                        lows[home] = self._tasks.spawn(self._resume.low(log.id, home, self._homes.epoch))
                    self._tasks.spawn(self._move(log, connection, reached, lows))

    async def _move(self, log: Subscription, connection: Connection, before: Position, lows: _Lows) -> None:
        moves = log.moves
        begin = await self._resume.resume_moved(log, before, lows)
        if begin is None or log.connection is not connection or log.moves != moves:
            return  # the topic has changed again
        epoch = self._homes.epoch
        log.update_position_prefix(epoch)
        log.seen = begin.start - 1
        self._resume.send_gap(log, connection, before, log.position(epoch, log.seen), "epoch")
        try:
            await self._resume.catch_up(log, connection, begin.start)
        except KafkaException as error:
            _log.error("channel %s can't be read: %s", log.channel, error, extra=ids(session=log.session.id))
            connection.close(CloseCode.TRY_AGAIN, "the results can't be read now: resume")

    async def close(self) -> None:
        """Stop what is under way."""
        await self._tasks.cancel()
