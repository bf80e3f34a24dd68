"""The models of the container next door, as far as they were asked for: described once, and looked at again now and then."""

import asyncio
import logging
from collections.abc import Container
from dataclasses import dataclass

from podpair.gateway.core.attempts import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Fault
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.readiness import Readiness

_log = logging.getLogger(__name__)
_FRESH = 15.0  # seconds until a model is described anew, beside its requests
_MOST = 1000  # models that are remembered


@dataclass(slots=True)
class _Known:
    model: Model
    until: float  # on the loop's clock: when to look again


class Catalog:
    """Models by name. What stands there after a restart is described anew."""

    def __init__(self, upstream: Upstream, readiness: Readiness) -> None:
        self._upstream = upstream
        self._known: dict[str, _Known] = {}
        self._loads: dict[str, asyncio.Task[Model]] = {}
        self._loop = asyncio.get_running_loop()
        readiness.on_change(lambda _: self._known.clear())

    @property
    def names(self) -> Container[str]:
        """What is known."""
        return self._known

    def get(self, name: str) -> Model | None:
        """The model, if it is known."""
        known = self._known.get(name)
        if known is None:
            return None
        if self._loop.time() >= known.until and name not in self._loads:
            self._start(name).add_done_callback(_quietly)
        return known.model

    async def load(self, name: str) -> Model:
        """The model. Raises Fault where there is none, Unavailable, Busy or Failed where the container does not say."""
        return await asyncio.shield(self._loads.get(name) or self._start(name))

    async def renew(self, model: Model, *, unless_within: float = 0.0) -> Model | None:
        """Describe a model anew, for a call makes one doubt that it is what it was; None: it is.

        unless_within: seconds since the last time, within which that is no doubt. Raises as `load`.
        """
        known = self._known.get(model.name)
        if known is not None and known.model is model and self._loop.time() - (known.until - _FRESH) < unless_within:
            return None
        found = known.model if known is not None and known.model is not model else await self.load(model.name)
        return None if found == model else found

    def _start(self, name: str) -> "asyncio.Task[Model]":
        task = self._loads[name] = asyncio.create_task(self._load(name))
        task.add_done_callback(_quietly)
        return task

    async def _load(self, name: str) -> Model:
        try:
            model = await self._upstream.model(name)
        except (Fault, Failed):
            self._known.pop(name, None)
            raise
        finally:
            del self._loads[name]
        known = self._known.get(name)
        if known is not None and known.model == model:
            model = known.model  # what hangs on it stays as it is
        elif known is None and len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[name] = _Known(model, self._loop.time() + _FRESH)
        return model


def _quietly(task: "asyncio.Task[Model]") -> None:
    """Whoever waits hears of the error; a look at what is known already may fail."""
    if not task.cancelled() and (error := task.exception()) is not None:
        expected = isinstance(error, Fault | Failed | Unavailable | Busy)
        _log.log(logging.DEBUG if expected else logging.ERROR, "a model could not be described: %s", error)
