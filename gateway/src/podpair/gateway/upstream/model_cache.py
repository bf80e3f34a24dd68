"""Caches the metadata of the container's models: described when first asked for, and refreshed now and then."""

import asyncio
import logging
from collections.abc import Container
from dataclasses import dataclass

from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Fault
from podpair.gateway.upstream.calls import Upstream
from podpair.gateway.upstream.readiness import Readiness

_log = logging.getLogger(__name__)
_FRESH = 15.0  # seconds until a model is described anew, beside its requests
_MOST = 1000  # models that are remembered


@dataclass(slots=True)
class _Entry:
    model: Model
    until: float  # on the loop's clock: when to look again


class ModelMetadataCache:
    """The metadata of models, by name. After a restart of the container it is loaded anew."""

    def __init__(self, upstream: Upstream, readiness: Readiness) -> None:
        self._upstream = upstream
        self._entries: dict[str, _Entry] = {}
        self._loads: dict[str, asyncio.Task[Model]] = {}
        self._loop = asyncio.get_running_loop()
        readiness.on_change(lambda _: self._entries.clear())

    @property
    def names(self) -> Container[str]:
        """The names of the known models."""
        return self._entries

    def get(self, name: str) -> Model | None:
        """Return the model, if it is known."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if self._loop.time() >= entry.until and name not in self._loads:
            self._start(name).add_done_callback(_log_failure)
        return entry.model

    async def load(self, name: str) -> Model:
        """Return the model. Raises Fault if there is none; Unavailable, Busy or Failed if the container does not say."""
        return await asyncio.shield(self._loads.get(name) or self._start(name))

    async def refresh(self, model: Model, *, unless_within: float = 0.0) -> Model | None:
        """Reload a model's metadata because a call casts doubt on it; return None if it is unchanged.

        unless_within: seconds since the last load, within which there is no doubt. Raises as `load`.
        """
        entry = self._entries.get(model.name)
        if entry is not None and entry.model is model and self._loop.time() - (entry.until - _FRESH) < unless_within:
            return None
        found = entry.model if entry is not None and entry.model is not model else await self.load(model.name)
        return None if found == model else found

    def _start(self, name: str) -> "asyncio.Task[Model]":
        task = self._loads[name] = asyncio.create_task(self._load(name))
        task.add_done_callback(_log_failure)
        return task

    async def _load(self, name: str) -> Model:
        try:
            model = await self._upstream.model(name)
        except (Fault, Failed):
            self._entries.pop(name, None)
            raise
        finally:
            del self._loads[name]
        entry = self._entries.get(name)
        if entry is not None and entry.model == model:
            model = entry.model  # what hangs on it stays as it is
        elif entry is None and len(self._entries) >= _MOST:
            del self._entries[next(iter(self._entries))]
        self._entries[name] = _Entry(model, self._loop.time() + _FRESH)
        return model


def _log_failure(task: "asyncio.Task[Model]") -> None:
    """Log why a refresh failed: whoever waits for a load gets the error itself."""
    if not task.cancelled() and (error := task.exception()) is not None:
        expected = isinstance(error, Fault | Failed | Unavailable | Busy)
        _log.log(logging.DEBUG if expected else logging.ERROR, "a model could not be described: %s", error)
