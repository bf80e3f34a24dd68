"""Files that others change while the container runs, looked at again and again; what can't be used changes nothing.

Polled, not notified of: ConfigMaps, network volumes and git-sync exchange symbolic links, which few notifications survive.
"""

import asyncio
import logging

from podpair.inference.core.errors import FaultsError
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.weights import WeightsSource

log = logging.getLogger(__name__)


class Watching:
    """Looks at the files every `seconds`, for as long as `run` does."""

    def __init__(self, catalog: Catalog, weights: WeightsSource, seconds: float) -> None:
        self._catalog = catalog
        self._weights = weights
        self._seconds = seconds

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.look()
            except Exception:
                log.exception("looking for changes failed")

    async def look(self) -> None:
        """Take over what has changed since the last look."""
        try:
            weights = await asyncio.to_thread(self._weights.changed)
            if weights is not None:
                self._catalog.reweigh(weights)
        except FaultsError as error:
            log.error("weights stay as they were", extra={"faults": error.faults})
