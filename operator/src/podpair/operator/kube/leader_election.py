"""Leader election: of several operators the holder of one Lease writes.

The fence keeps two from writing: a holder may write only until `_SAFE` of the Lease's duration after it *asked* for
its last renewal; another takes over a whole duration after it *saw* that one. So a holder that can't renew has stopped
before anyone else begins, whatever the two clocks say: only durations are compared, each on one clock.
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

from podpair.operator.kube.client import ApiError, Client, NotLeading
from podpair.operator.kube.kinds import LEASE
from podpair.operator.metrics import Metrics

_log = logging.getLogger(__name__)
_SAFE = 2 / 3  # of the duration
_TRIES = 7.5  # renewals in a duration


@dataclass(frozen=True, slots=True)
class Candidacy:
    """For which Lease this operator stands, and as whom."""

    namespace: str
    lease: str
    identity: str
    seconds: float
    """How long the Lease is held without being renewed."""


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
        self._on_change = on_change
        self._until = 0.0  # on the monotonic clock: writing is allowed so long
        self._leading = False
        self._seen: tuple[Any, ...] = ()  # the holder's last renewal …
        self._seen_at = 0.0  # … and when it was seen

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
                wait = pause * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
                if self._leading:
                    wait = min(wait, max(self._until - time.monotonic(), 0.01))
                await asyncio.sleep(wait)
        finally:
            held_until_now, self._until = self.leading, 0.0
            self._notify()
            if held_until_now:
                await self._release()

    def _notify(self) -> None:
        if self.leading != self._leading:
            self._leading = self.leading
            self._gauge.set(self._leading)
            _log.info("%s %s", self._identity, "leads" if self._leading else "does not lead")
            self._on_change(self._leading)

    async def _try_acquire_or_renew(self) -> bool:
        lease = await self._client.get(self._path)
        if lease is None:
            made = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": {"name": self._name}}
            try:
                await self._client.create_unfenced(self._collection, made | {"spec": self._spec(0)})
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    return False
                raise
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
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

    def _expired(self, spec: dict[str, Any]) -> bool:
        sign = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if sign != self._seen:
            self._seen, self._seen_at = sign, time.monotonic()
        return time.monotonic() - self._seen_at > float(spec.get("leaseDurationSeconds") or self._seconds)

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
                if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._client.replace(self._path, lease)
