"""Whether the inference container answers: asked for all the time, and learnt at once from a call that fails."""

import asyncio
import logging
from collections.abc import Callable

from podpair.gateway.upstream.calls import Upstream

_log = logging.getLogger(__name__)


class Readiness:
    """`ready` is the state now; `changed` is called with each new one."""

    def __init__(self, client: Upstream, interval: float) -> None:
        self._client = client
        self._interval = interval
        self._listeners: list[Callable[[bool], object]] = []
        self._up = asyncio.Event()
        self._probe = asyncio.Event()  # set: ask now
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

    def failed(self, why: str = "") -> None:
        """A call found the container gone, and `why`: it is not ready until it says so again."""
        self._set(False, why)
        self._probe.set()

    async def _watch(self) -> None:
        while True:
            try:
                ready = await self._client.ready()
            except Exception:
                # Whatever answers there: not to know is not to be ready, and asking must go on.
                _log.exception("asking %s whether it is ready", self._client.url)
                ready = False
            self._set(ready)
            self._probe.clear()
            # Soon again while it is down: a restarted model is used as soon as it can be.
            wait = self._interval if self.ready else min(self._interval, 0.2)
            try:
                async with asyncio.timeout(wait):
                    await self._probe.wait()
                await asyncio.sleep(min(wait, 0.05))
            except TimeoutError:
                pass

    def _set(self, ready: bool, why: str = "") -> None:
        if ready == self.ready:
            return
        if ready:
            self._up.set()
            _log.info("inference at %s is ready", self._client.url)
        else:
            self._up.clear()
            _log.warning("inference at %s is not ready%s", self._client.url, f": {why}" if why else "")
        for listener in self._listeners:
            listener(ready)

    async def close(self) -> None:
        """Stop asking."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
