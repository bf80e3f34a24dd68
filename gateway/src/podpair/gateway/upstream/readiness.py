"""Probes whether the inference container is ready: periodically, and at once when a call casts doubt on it.

Invariant: only its health, or that no connection to it can be made, makes it not ready; no single call that it fails does.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from podpair.common.logs import Throttle
from podpair.gateway.core.model_errors import Unavailable
from podpair.gateway.tasks import cancel_task
from podpair.gateway.upstream.calls import Upstream

_log = logging.getLogger(__name__)
_SOONEST, _LATEST = 0.03, 0.2  # seconds until it is probed again while it is not ready …
_SHARE = 0.2  # … of the time that it has not been: what is down for a moment is used at once


class Readiness:
    """The container's state: `ready` is the state now; listeners added by `on_change` are called with each new state."""

    def __init__(self, client: Upstream, interval: float) -> None:
        self._client = client
        self._interval = interval
        self._listeners: list[Callable[[bool], object]] = []
        self._up = asyncio.Event()
        self._down_since = time.monotonic()
        self._probe = asyncio.Event()  # set: probe now
        self._begun = 0  # probes
        self._asked = 0  # probes that have ended
        self._gone = -1  # the probe that was the last to begin when a call found nobody there
        self._ended = asyncio.Condition()  # notified of each probe that has ended
        self._throttle = Throttle()
        self._task = asyncio.create_task(self._watch())

    @property
    def ready(self) -> bool:
        return self._up.is_set()

    def on_change(self, listener: Callable[[bool], object]) -> None:
        """Call `listener` with each new state."""
        self._listeners.append(listener)

    async def wait(self) -> None:
        """Return when the container is ready."""
        await self._up.wait()

    def on_error(self, error: Exception) -> None:
        """Handle the error of a call: not ready until its health says so if no connection could be made; probe at once if there
        is doubt.
        """
        if isinstance(error, Unavailable):
            if error.down:
                self._gone = self._begun
                self._set(False, str(error))
            self._probe.set()

    async def confirmed(self) -> bool:
        """Probe its health anew, and return the result; within about four seconds."""
        wanted = self._begun + 1  # what is asked already may be older than the doubt
        self._probe.set()
        async with self._ended:
            await self._ended.wait_for(lambda: self._asked >= wanted)
        return self.ready

    async def _watch(self) -> None:
        while True:
            self._begun += 1
            self._probe.clear()
            try:
                ready = await self._client.ready()
            except Exception:
                # Whatever answers there: not to know is not to be ready, and asking must go on.
                _log.exception("asking %s whether it is ready", self._client.url)
                ready = False
            if not ready or self._gone < self._begun:  # else it is older than what a call found
                self._set(ready)
            async with self._ended:
                self._asked = self._begun
                self._ended.notify_all()
            wait = self._interval if self.ready else min(self._interval, self._soon())
            try:
                async with asyncio.timeout(wait):
                    await self._probe.wait()
                await asyncio.sleep(min(wait, 0.05))
            except TimeoutError:
                pass

    def _soon(self) -> float:
        """Return the seconds until it is probed again while it is not ready: a restarted model is used as soon as it can be."""
        return min(max(_SHARE * (time.monotonic() - self._down_since), _SOONEST), _LATEST)

    def _set(self, ready: bool, why: str = "") -> None:
        if ready == self.ready:
            return
        if ready:
            self._up.set()
            self._throttle.log(_log, logging.INFO, "inference at %s is ready", self._client.url)
        else:
            self._up.clear()
            self._down_since = time.monotonic()
            self._throttle.log(
                _log, logging.WARNING, "inference at %s is not ready%s", self._client.url, f": {why}" if why else ""
            )
        for listener in self._listeners:
            listener(ready)

    async def close(self) -> None:
        """Stop probing."""
        await cancel_task(self._task)
