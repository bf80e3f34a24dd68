"""Asks the gateways of a resource for their load, all at once and never for long.

A pod that doesn't answer in time keeps nobody waiting: it counts as the window says.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import aiohttp

from podpair.operator.core.load import PodLoad, Window
from podpair.operator.core.measures import Measures
from podpair.operator.scraping.reading import read_load

_SECONDS = 3.0  # for one pod's answer
_BYTES = 4 << 20
_AT_A_TIME = 32  # pods

_log = logging.getLogger(__name__)


class Scraper:
    """The load of all resources' pods. Used on one event loop; `close` it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, str], Window] = {}
        self._session: aiohttp.ClientSession | None = None

    async def measure(self, key: tuple[str, str], pods: Mapping[str, str]) -> Measures:
        """Ask the pods of a resource (namespace, name), and tell what is known of them; lag isn't.

        `pods` are the ready ones: name → URL, such as http://10.0.0.7:8083. Raises nothing.
        """
        session = self._opened()
        found = await asyncio.gather(*(self._ask(session, url) for url in pods.values()))
        window = self._windows.setdefault(key, Window())
        now = self._clock()
        window.take(now, dict(zip(pods, found, strict=True)))
        return window.measures(now)

    def forget(self, key: tuple[str, str]) -> None:
        """The resource is gone."""
        self._windows.pop(key, None)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Pods come and go: nothing is gained by connections that stay.
            connector = aiohttp.TCPConnector(limit=_AT_A_TIME, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> PodLoad | None:
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        try:
            async with session.get(f"{url}/metrics", timeout=timeout, allow_redirects=False) as response:
                response.raise_for_status()
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > _BYTES:
                        raise ValueError(f"more than {_BYTES} bytes of metrics")
            return read_load(body.decode())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.debug("%s tells no load: %s", url, error or type(error).__name__)
            return None
