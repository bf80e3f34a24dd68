"""Files that others change while the container runs, looked at again and again; what can't be used changes nothing.

Polled, not notified of: ConfigMaps, network volumes and git-sync exchange symbolic links, which few notifications survive.
"""

import asyncio
import logging
import time

from podpair.inference.core.changes import RETRY_SECONDS, Changes
from podpair.inference.core.errors import FaultsError, InferenceError
from podpair.inference.runtime.catalog import Catalog, Source
from podpair.inference.runtime.weights import WeightsSource

log = logging.getLogger(__name__)


class Watching:
    """Looks at the weights, and at `source` where there is one to watch, every `seconds`, for as long as `run` does."""

    def __init__(
        self,
        catalog: Catalog,
        weights: WeightsSource,
        source: Source | None,
        seconds: float,
        exit_on_error: bool = False,
    ) -> None:
        self._catalog = catalog
        self._weights = weights
        self._source = source
        self._seconds = seconds
        self._exit_on_error = exit_on_error
        self._changes = Changes({})

    async def start(self) -> None:
        """Load everything for the first time. Where models are watched and none can be loaded, one is waited for.

        Raises FaultsError where they aren't, or to be strict.
        """
        source = self._source
        if source is None:
            await self._catalog.start()
            return
        if self._exit_on_error:
            self._changes = Changes(await asyncio.to_thread(source.states))
            await self._catalog.start()
            return
        while True:
            states = await asyncio.to_thread(source.states)
            self._changes = Changes(states)
            try:
                failed = await self._catalog.start()
            except FaultsError as error:
                log.error("nothing can be served yet", extra={"faults": error.faults})
            else:
                for name in failed:
                    self._changes.failed(name, states.get(name, ""), time.monotonic())
                return
            await self._until_changed(source, states)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._look_at_models()
                await self._look_at_weights()
            except Exception:
                log.exception("looking for changes failed")

    async def _until_changed(self, source: Source, states: dict[str, str]) -> None:
        """Until a file is another, or it is worth trying again as it is."""
        end = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(self._seconds)
            if await self._look_at_weights() or await asyncio.to_thread(source.states) != states:
                return

    async def _look_at_weights(self) -> bool:
        """Whether they have changed."""
        try:
            weights = await asyncio.to_thread(self._weights.changed)
            if weights is not None:
                self._catalog.reweigh(weights)
        except FaultsError as error:
            log.error("weights stay as they were", extra={"faults": error.faults})
            return False
        return weights is not None

    async def _look_at_models(self) -> None:
        if self._source is None:
            return
        states = await asyncio.to_thread(self._source.states)
        todo = self._changes.look(states, time.monotonic())
        for name, state in todo.load.items():
            try:
                await self._catalog.load(name, state)
            except InferenceError as error:
                log.error("a model stays as it was", extra={"model": name, "error": str(error)})
                self._changes.failed(name, state, time.monotonic())
            else:
                self._changes.loaded(name, state)
        for name in todo.unload:
            self._changes.unloaded(name)
            try:
                await self._catalog.unload(name)
            except InferenceError as error:  # somebody else has
                log.info("a model had gone already", extra={"model": name, "error": str(error)})
