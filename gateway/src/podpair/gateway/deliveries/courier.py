"""Brings a parcel to its receiver, or writes down that it could not: on the topic for retries, or for good.

Invariant: a parcel is settled when it was delivered, is on a topic of its own, or nobody wants it any more; nothing else ends it.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from podpair.common.gateway_config.deliveries import Deliveries
from podpair.common.logs import Throttle
from podpair.gateway.core.deliveries.parcels import Parcel, dead_headers, encode_headers, record_key
from podpair.gateway.core.deliveries.schedule import NextAttempt, Schedule
from podpair.gateway.core.deliveries.subscriptions import Subscription
from podpair.gateway.core.deliveries.table import SubscriptionTable
from podpair.gateway.core.deliveries.urls import InvalidUrl
from podpair.gateway.core.record_times import rfc_3339
from podpair.gateway.deliveries.attempt import Attempt, Reason
from podpair.gateway.deliveries.lanes import Lane, Lanes, TurnedAway
from podpair.gateway.deliveries.partition import Flight
from podpair.gateway.deliveries.sender import Sender
from podpair.gateway.kafka.producer import Outgoing, RecordProducer
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_RESPONSE_USES = 5  # messages that Slack takes to one response_url


class Setback(NamedTuple):
    """Why a parcel was not delivered, and when to try again; without a next attempt it is given up."""

    parcel: Parcel
    next: NextAttempt | None
    reason: Reason | str
    text: str
    crowded: bool = False  # no attempt was made, because many wait for the same receiver


class Tools(NamedTuple):
    """What a courier works with."""

    table: SubscriptionTable
    lanes: Lanes
    sender: Sender
    producer: RecordProducer
    end_subscription: Callable[[str], object]


class Courier:
    """name: this gateway's, in dead letters. retry_partitions: how many the topic for retries has, at the time."""

    def __init__(self, config: Deliveries, tools: Tools, metrics: Metrics, name: str) -> None:
        self._config = config
        self._tools = tools
        self._metrics = metrics
        self._name = name
        self._schedule = Schedule(config.retry_seconds, config.max_age_seconds, random.random)
        self._uses: dict[str, int] = {}  # of response_urls, by subscription
        self._throttle = Throttle()

    async def try_once(self, parcel: Parcel, flight: Flight, most_waiting: int) -> Setback | None:
        """Make an attempt; None: the parcel is settled. From when it begins `flight` is busy."""
        subscription = self._tools.table.get(parcel.subscription)
        if subscription is None or subscription.expires_at <= time.time() * 1000:
            self._metrics.deliveries.labels("any", "unsubscribed").inc()
            return None
        if parcel.place is not None and self._tools.table.receipts.covers(parcel.key, *parcel.place):
            self._metrics.deliveries.labels(subscription.kind, "received").inc()
            return None
        try:
            lane = self._tools.lanes.of(subscription)
        except InvalidUrl as error:  # it was taken under other settings
            return Setback(parcel, None, "url", str(error))
        try:
            async with lane.place(most_waiting):
                flight.busy = True
                return await self._attempt(lane, subscription, parcel)
        except TurnedAway as turned:
            flight.busy = True  # what follows is written down, not interrupted
            return self._turned_away(parcel, turned.reason)

    async def _attempt(self, lane: Lane, subscription: Subscription, parcel: Parcel) -> Setback | None:
        if subscription.kind == "slack_response" and not self._may_use(subscription):
            lane.circuit.abandoned()
            return Setback(parcel, None, "used_up", f"a response_url takes {_RESPONSE_USES} messages")
        parcel = parcel._replace(attempts=parcel.attempts + 1)
        try:
            attempt = await self._tools.sender.attempt(subscription, parcel)
        except BaseException:
            lane.circuit.abandoned()
            raise
        lane.report(attempt)
        if attempt.outcome == "delivered":
            self._metrics.deliveries.labels(subscription.kind, "delivered").inc()
            self._metrics.delivery_duration.labels(subscription.kind).observe(
                max(0.0, time.time() - parcel.first / 1000)
            )
            return None
        if subscription.kind == "web_push" and attempt.reason == "gone":  # the browser has unsubscribed, or is no more
            self._tools.end_subscription(subscription.id)
        return self._failed(parcel, attempt)

    def _may_use(self, subscription: Subscription) -> bool:
        if len(self._uses) > 10_000:
            self._uses = {name: uses for name, uses in self._uses.items() if self._tools.table.get(name) is not None}
        self._uses[subscription.id] = uses = self._uses.get(subscription.id, 0) + 1
        return uses <= _RESPONSE_USES

    def _failed(self, parcel: Parcel, attempt: Attempt) -> Setback:
        reason = attempt.reason or "status"
        if attempt.outcome == "failed":
            return Setback(parcel, None, reason, attempt.text)
        found = self._schedule.next(parcel.level, parcel.first / 1000, time.time(), attempt.retry_after)
        return Setback(parcel, found, reason, attempt.text)

    def _turned_away(self, parcel: Parcel, reason: Reason) -> Setback:
        crowded = reason == "crowded"
        # Many wait for a receiver that works: it is no failure, and they come again after the shortest wait.
        found = self._schedule.next(0 if crowded else parcel.level, parcel.first / 1000, time.time())
        text = "many wait for the same receiver" if crowded else "its host is left alone: it has failed repeatedly"
        return Setback(parcel, found, reason, text, crowded)

    def later(self, setback: Setback, found: NextAttempt) -> Parcel:
        """Return the parcel as it waits for its next attempt."""
        self._metrics.delivery_retries.labels(setback.reason).inc()
        level = setback.parcel.level + (not setback.crowded)
        return setback.parcel._replace(level=level, due=int(found.due * 1000))

    async def park(self, setback: Setback, found: NextAttempt, partitions: int) -> None:
        """Write the parcel to the topic for retries; return once that is acknowledged."""
        await self._write_later(self.later(setback, found), min(found.tier, partitions - 1))

    async def _write_later(self, parcel: Parcel, partition: int) -> None:
        record = Outgoing(
            self._config.retry_topic, parcel.body, record_key(parcel), encode_headers(parcel),
            lambda: f"delivery {parcel.id}", lambda: self._dead(parcel, "it is larger than the topic for retries takes"),
        )  # fmt: skip
        await self._tools.producer.send_until_acked(record, lambda: partition)

    async def hold(self, parcel: Parcel, partitions: int) -> None:
        """Write a parcel that is due later to the topic for retries; return once that is acknowledged."""
        wait = parcel.due / 1000 - time.time()
        tier = next((number for number, one in enumerate(self._config.retry_seconds) if one >= wait), partitions - 1)
        await self._write_later(parcel, min(tier, partitions - 1))

    async def forward(self, parcel: Parcel) -> None:
        """Write the parcel to the topic of those whose order is kept; return once that is acknowledged."""
        record = Outgoing(
            self._config.ordered_topic, parcel.body, record_key(parcel), encode_headers(parcel),
            lambda: f"delivery {parcel.id}", lambda: self._dead(parcel, "it is larger than the topic for order takes"),
        )  # fmt: skip
        await self._tools.producer.send_until_acked(record)

    async def give_up(self, parcel: Parcel, reason: str, text: str) -> None:
        """Keep the parcel as a dead letter; return once that is acknowledged."""
        subscription = self._tools.table.get(parcel.subscription)
        self._metrics.deliveries.labels(subscription.kind if subscription is not None else "any", "failed").inc()
        about = {"delivery": parcel.id, "subscription": parcel.subscription, "attempts": parcel.attempts}
        self._throttle.log(_log, logging.WARNING, "a delivery is given up: %s: %s", reason, text, extra=about)
        await self._tools.producer.send_until_acked(self._dead(parcel, f"{reason}: {text}"))

    def _dead(self, parcel: Parcel, reason: str) -> Outgoing:
        headers = dead_headers(parcel, reason, rfc_3339(int(time.time() * 1000)), self._name)

        def made(body: bytes, fallback: bool) -> Outgoing:
            return Outgoing(
                self._config.dead_letter_topic, body, record_key(parcel), headers, lambda: f"dead delivery {parcel.id}",
                (lambda: made(b"", False)) if fallback else None,
            )  # fmt: skip

        return made(parcel.body, True)
