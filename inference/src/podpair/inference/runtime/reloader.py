"""Reloads models and weights whose files change while the container runs; invalid files change nothing.

Files are polled: ConfigMaps, network volumes and git-sync replace symbolic links, which few file notifications survive.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from podpair.common.faults import FaultsError
from podpair.inference.core.changes import RETRY_SECONDS, Changes
from podpair.inference.core.errors import InferenceError
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.repository import ModelSource
from podpair.inference.runtime.weights import WeightsSource

log = logging.getLogger(__name__)


class Reloader:
    """Polls the weights, and `source` if there is one to watch, every `seconds` while `run` runs."""

    def __init__(
        self,
        catalog: Catalog,
        weights: WeightsSource,
        source: ModelSource | None,
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
        """Load everything for the first time. If models are watched and none can be loaded, wait for one.

        Raises FaultsError if they aren't watched, or with `exit_on_error`.
        """
        source = self._source
        if source is None:
            await self._start()
            return
        if self._exit_on_error:
            self._changes = Changes(await asyncio.to_thread(source.states))
            await self._start()
            return
        while True:
            states = await asyncio.to_thread(source.states)
            self._changes = Changes(states)
            try:
                failed = await self._start()
            except FaultsError as error:
                log.error("nothing can be served yet", extra={"faults": error.faults})
            else:
                for name in failed:
                    self._changes.failed(name, states.get(name, ""), time.monotonic())
                return
            await self._wait_for_change(source, states)

    async def _start(self) -> Iterable[str]:
        """Start the catalog; return the models that can't be served, whose faults are logged."""
        failed = await self._catalog.start()
        for name, faults in failed.items():
            log.error("a model can't be served, the others are", extra={"model": name, "faults": faults})
        return failed

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._poll_models()
                await self._poll_weights()
            except Exception:
                log.exception("polling for changes failed")

    async def _wait_for_change(self, source: ModelSource, states: dict[str, str]) -> None:
        """Wait until a file has changed, or it is worth retrying as it is."""
        end = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(self._seconds)
            if await self._poll_weights() or await asyncio.to_thread(source.states) != states:
                return

    async def _poll_weights(self) -> bool:
        """Apply changed weights. Return whether they have changed."""
        try:
            weights = await asyncio.to_thread(self._weights.poll)
            if weights is not None:
                self._catalog.set_weights(weights)
        except FaultsError as error:
            log.error("weights stay as they were", extra={"faults": error.faults})
            return False
        return weights is not None

    async def _poll_models(self) -> None:
        if self._source is None:
            return
        states = await asyncio.to_thread(self._source.states)
        todo = self._changes.poll(states, time.monotonic())
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
                log.info("a model was already unloaded", extra={"model": name, "error": str(error)})
