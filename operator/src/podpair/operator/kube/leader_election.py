"""Leader election: of several operators the holder of one Lease writes.

The fence keeps two from writing: a holder may write only until `_SAFE` of the Lease's duration after it *asked* for
its last renewal; another takes over a whole duration after it *saw* that one. So a holder that can't renew has stopped
before anyone else begins, whatever the two clocks say: only durations are compared, each on one clock.

A Lease that was deleted, or emptied by anyone but its holder, is taken a whole duration later, and by then no former holder
writes. With `helm uninstall` the operator has ended by then; if it hasn't, the garbage collector takes the new Lease as it takes
all else.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from podpair.operator.core.installation_owner import owned_by, owner_path
from podpair.operator.kube.client import ApiError, Client, NotLeading
from podpair.operator.kube.kinds import LEASE
from podpair.operator.metrics import Metrics

_log = logging.getLogger(__name__)
_SAFE = 2 / 3  # of the duration
_TRIES = 7.5  # renewals in a duration
_RELEASED = {"holderIdentity": "", "leaseDurationSeconds": 1}


@dataclass(frozen=True, slots=True)
class Candidacy:
    """For which Lease this operator stands, and as whom."""

    namespace: str
    lease: str
    identity: str
    seconds: float
    """How long the Lease is held without being renewed."""
    owner: str | None = None
    """The installation's ClusterRole, which owns a Lease that the operator makes; None: nobody does."""


class LeaderElector:
    """This operator's part in the Lease. `on_change` is called when it starts or stops leading."""

    def __init__(
        self, client: Client, metrics: Metrics, candidacy: Candidacy, on_change: Callable[[bool], None]
    ) -> None:
        namespace, name = candidacy.namespace, candidacy.lease
        self._client = client
        self._gauge = metrics.leading.labels(name)
        self._gauge.set(0)
        self._collection = LEASE.path(namespace)
        self._path = LEASE.path(namespace, name)
        self._name = name
        self._identity = candidacy.identity
        self._seconds = candidacy.seconds
        self._owner = candidacy.owner
        self._on_change = on_change
        self._until = 0.0  # on the monotonic clock: writing is allowed so long
        self._leading = False
        self._seen: tuple[Any, ...] = ()  # the holder's last renewal …
        self._ends = 0.0  # … and when it is a whole duration old, on the monotonic clock
        self._missed_at: float | None = None  # since when a Lease that was there is missing
        self._there = False  # whether it has ever been there

    @property
    def leading(self) -> bool:
        """Whether this operator may write now."""
        return time.monotonic() < self._until

    def fence(self) -> float:
        """Seconds for which writing is allowed. Raises NotLeading."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise NotLeading(f"{self._identity} does not hold the Lease {self._name}")
        return left

    async def run(self) -> None:
        """Try to hold the Lease until cancelled; it is released at the end, so that another need not wait."""
        pause = self._seconds / _TRIES
        try:
            while True:
                asked = time.monotonic()
                try:
                    async with asyncio.timeout(self._seconds * _SAFE / 2):
                        held = await self._try_acquire_or_renew()
                except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                    _log.warning("the Lease %s could not be renewed: %s", self._name, error or type(error).__name__)
                    held = None
                if held:
                    self._until = asked + self._seconds * _SAFE
                elif held is False:
                    self._until = 0.0
                self._notify()
                await asyncio.sleep(self._wait(pause * random.uniform(0.9, 1.1)))  # noqa: S311 - spreads load, guards nothing
        finally:
            held_until_now, self._until = self.leading, 0.0
            self._notify()
            if held_until_now:
                await self._release()

    def _wait(self, pause: float) -> float:
        """Return the seconds until the next try: less than `pause` if the Lease ends before, ours or another's."""
        ends = self._until if self._leading else self._ends
        left = ends - time.monotonic()
        return min(pause, max(left, 0.01)) if self._leading or left > 0 else pause

    def _notify(self) -> None:
        if self.leading != self._leading:
            self._leading = self.leading
            self._gauge.set(self._leading)
            _log.info("%s %s", self._identity, "leads" if self._leading else "does not lead")
            self._on_change(self._leading)

    async def _try_acquire_or_renew(self) -> bool:
        lease = await self._client.get(self._path)
        if lease is None:
            return await self._try_create()
        self._there, self._missed_at = True, None
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder != self._identity and not _is_released(spec) and not self._expired(spec):
            return False
        turns = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        lease["spec"] = self._spec(turns, spec.get("acquireTime") if holder == self._identity else None)
        try:
            await self._client.replace(self._path, lease)
        except ApiError as error:
            if error.status == 409:  # another write came first
                return False
            raise
        return True

    async def _try_create(self) -> bool:
        """Make the Lease; one that was there a moment ago only after a whole duration, when its holder has stopped."""
        if self._there:
            if self._missed_at is None:
                self._missed_at = time.monotonic()
                _log.warning("the Lease %s was deleted: it is made anew in %g s", self._name, self._seconds)
            if time.monotonic() - self._missed_at <= self._seconds:
                return False
        owner = None
        if self._owner is not None and (owner := await self._client.get(owner_path(self._owner))) is None:
            _log.warning("the Lease %s isn't made: ClusterRole %s isn't there. Uninstalled?", self._name, self._owner)
            return False
        metadata = {"name": self._name} | owned_by(owner)
        made = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": self._spec(0)}
        try:
            await self._client.create_unfenced(self._collection, made)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return False
            raise
        return True

    def _expired(self, spec: dict[str, Any]) -> bool:
        sign = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if sign != self._seen:
            self._seen = sign
            self._ends = time.monotonic() + float(spec.get("leaseDurationSeconds") or self._seconds)
        return time.monotonic() > self._ends

    def _spec(self, turns: int, acquired: str | None = None) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(round(self._seconds), 1),
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": turns,
        }

    async def _release(self) -> None:
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
            async with asyncio.timeout(2):
                lease = await self._client.get(self._path)
                spec = (lease or {}).get("spec") or {}
                if lease is not None and spec.get("holderIdentity") == self._identity:
                    lease["spec"] = spec | _RELEASED
                    await self._client.replace(self._path, lease)


def _is_released(spec: dict[str, Any]) -> bool:
    """Return whether its last holder let go of it. One that somebody emptied may have a holder who doesn't know yet."""
    return spec.items() >= _RELEASED.items()
