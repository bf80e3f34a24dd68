"""Limits by receiver: how many attempts it gets at a time, how many wait for it, and when it is left alone.

A lane is a host for webhooks and Web Push, one URL for Slack, which takes about one message a second at each, and the SMTP server
for all e-mail. A lane that is full or left
alone turns deliveries away at once, so that a slow receiver holds no place that another one could have.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from podpair.common.gateway_config.deliveries import Deliveries
from podpair.gateway.core.deliveries.circuit import Circuit
from podpair.gateway.core.deliveries.subscriptions import Subscription
from podpair.gateway.core.deliveries.urls import InvalidUrl, UrlRules, check_url
from podpair.gateway.deliveries.attempt import Attempt, Reason

_log = logging.getLogger(__name__)
_SLACK_INTERVAL = 1.0  # seconds between two messages to one URL (Slack's documentation)
_LONG = 60.0  # seconds after which a host that is away is logged
_UNUSED = 1.2  # times the longest wait, after which nobody comes back to a host that is away
_MOST = 10_000  # lanes above which those that are idle are forgotten


class TurnedAway(Exception):
    """The lane takes no more now."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Lane:
    """One receiver."""

    def __init__(self, host: str, circuit: Circuit, places: int, interval: float) -> None:
        self.host = host
        self.circuit = circuit
        self._places = asyncio.Semaphore(places)
        self._interval = interval
        self._next = 0.0
        self.used = time.monotonic()  # when a delivery for it came last
        self.waiting = 0
        self.running = 0
        self.logged = False  # that the host is away

    @asynccontextmanager
    async def place(self, most_waiting: int) -> AsyncIterator[None]:
        """Wait for a place, unless so many wait already. Raises TurnedAway; an attempt's outcome has to be reported."""
        self.used = time.monotonic()
        if self.circuit.closed_to(self.used):
            raise TurnedAway("circuit")
        if self.waiting >= most_waiting:
            raise TurnedAway("crowded")
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        try:
            if self._interval:
                now = time.monotonic()
                self._next, wait = max(now, self._next) + self._interval, max(0.0, self._next - now)
                await asyncio.sleep(wait)
            if not self.circuit.admit(time.monotonic()):
                raise TurnedAway("circuit")
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
        finally:
            self._places.release()

    def report(self, attempt: Attempt) -> None:
        """Report the outcome of an attempt."""
        now = time.monotonic()
        if not attempt.host_failed:
            if self.logged:
                _log.info("deliveries to %s succeed again", self.host)
            self.logged = False
            self.circuit.succeeded()
            return
        self.circuit.failed(now)
        if self.circuit.opened_at is not None and not self.logged and now - self.circuit.opened_at >= _LONG:
            self.logged = True
            _log.warning("deliveries to %s have failed for %.0f s: %s", self.host, now - self.circuit.opened_at,
                         attempt.text)  # fmt: skip

    @property
    def idle(self) -> bool:
        """Whether nothing is known of it that matters."""
        return (
            not self.waiting and not self.running and self.circuit.opened_at is None and self._next < time.monotonic()
        )


class Lanes:
    """All receivers that have had deliveries lately."""

    def __init__(self, config: Deliveries, rules: UrlRules) -> None:
        self._config = config
        self._rules = rules
        self._lanes: dict[str, Lane] = {}
        self._unused = _UNUSED * max(config.retry_seconds[-1], config.circuit_seconds, _LONG)

    def of(self, subscription: Subscription) -> Lane:
        """Return the lane of a subscription. Raises InvalidUrl if its URL isn't taken any more."""
        slack = subscription.kind in ("slack", "slack_response")
        host = self._host(subscription)
        name = subscription.url if slack else host
        found = self._lanes.get(name)
        if found is None:
            if len(self._lanes) >= _MOST:
                self._lanes = {name: lane for name, lane in self._lanes.items() if not lane.idle}
            circuit = Circuit(self._config.circuit_failures, self._config.circuit_seconds)
            found = Lane(host, circuit, 1 if slack else self._config.per_host, _SLACK_INTERVAL if slack else 0.0)
            self._lanes[name] = found
        return found

    def _host(self, subscription: Subscription) -> str:
        if subscription.kind != "email":
            return check_url(subscription.url, self._rules)
        if self._config.email.host is None:
            raise InvalidUrl("nothing is sent by e-mail any more (deliveries.email.host)")
        return f"smtp:{self._config.email.host}:{self._config.email.port}"

    def open_circuits(self) -> dict[str, float]:
        """Return the hosts that are left alone, each with for how many seconds it has failed.

        One that nobody has anything for any more, since its subscription has ended, is forgotten.
        """
        now = time.monotonic()
        self._lanes = {
            name: lane
            for name, lane in self._lanes.items()
            if lane.waiting or lane.running or now - lane.used < self._unused
        }
        found: dict[str, float] = {}
        for lane in self._lanes.values():
            if lane.circuit.opened_at is not None:
                found[lane.host] = max(found.get(lane.host, 0.0), now - lane.circuit.opened_at)
        return found
