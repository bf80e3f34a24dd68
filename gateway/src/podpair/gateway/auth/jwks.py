"""The keys that an issuer publishes (RFC 7517): cached, and fetched again when they age or an unknown key id arrives.

Aged keys are used while newer ones are fetched, so that no client waits for the issuer. Only after twice that time clients wait,
so that a key that was withdrawn long ago is not accepted; and while the issuer doesn't answer, the last keys are used for
`stale_seconds` and no longer.

Invariant: tokens can't cause many requests to the issuer: unknown key ids, and signatures that match no key without an id, cause
at most one fetch in ten seconds, and a key id that was missing in a recent fetch causes none.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import jwt

from podpair.common.logs import Throttle
from podpair.gateway.auth.identity import KeysUnavailable
from podpair.gateway.auth.jwk import ALGORITHMS, KeySet, VerifyingKey, key_set, keys_for
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_AT_MOST_EVERY = 10.0  # seconds between fetches that unknown key ids, or failures, cause
_FIRST_RETRY = 1.0  # seconds to the first fetch after a failure; doubles up to _AT_MOST_EVERY
_UNKNOWN_FOR = 60.0  # seconds that a key id counts as unknown after a fetch without it
_UNKNOWN = 1000  # key ids that are remembered as unknown
_LARGEST = 1 << 20  # bytes of a key set
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_SHOWN = 8  # ignored keys that are named in the log


def _json(text: bytes) -> Any:
    """Parse JSON. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its keys are nested too deep") from None


class Jwks:
    """The keys at one URL. on_fetch: called with each fetch's outcome, `fetched` or `failed`."""

    algorithms = ALGORITHMS

    def __init__(
        self,
        url: str,
        cache_seconds: float,
        stale_seconds: float = float("inf"),
        on_fetch: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._url = url
        self._on_fetch = on_fetch
        self._cache_seconds = cache_seconds
        self._stale_seconds = max(stale_seconds, 2 * cache_seconds)
        self._keys = KeySet()
        self._fetched = float("-inf")  # monotonic: the last success
        self._tried = float("-inf")  # monotonic: the last attempt
        self._why: str | None = None  # why the last attempt failed
        self._ignored: list[str] = []  # ignored keys, as they were logged
        self._unknown: dict[str, float] = {}  # key ids that were missing, and when; oldest first
        self._fetching = asyncio.Lock()
        self._failures = Throttle(burst=1, seconds=60)
        self._revalidating: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None

    @property
    def trouble(self) -> str | None:
        """Why no token can be verified; None: tokens can be. For operators: it contains the issuer's address."""
        if self._usable:
            return None
        if not self._keys.keys:
            return f"no keys of auth.jwks_url {self._url} yet: {self._why or 'they are being fetched'}"
        age = time.monotonic() - self._fetched
        return f"the keys of auth.jwks_url {self._url} are {age:.0f} s old (auth.jwks_stale_seconds): {self._why}"

    @property
    def _usable(self) -> bool:
        return bool(self._keys.keys) and time.monotonic() - self._fetched <= self._stale_seconds

    async def keep(self) -> None:
        """Fetch keys before a token needs them, and keep them fresh, until cancelled.

        A gateway that isn't ready gets no token that could cause a fetch; and a wrong URL is logged at the start.
        """
        wait = _FIRST_RETRY
        while True:
            await self._refresh(every=_FIRST_RETRY)
            if self._why is None:
                wait = _FIRST_RETRY
                await asyncio.sleep(max(_FIRST_RETRY, self._fetched + self._cache_seconds - time.monotonic()))
            else:
                await asyncio.sleep(wait)
                wait = min(2 * wait, _AT_MOST_EVERY)

    async def keys(self, header: dict[str, Any]) -> Sequence[VerifyingKey]:
        """Return the keys that may have signed a token with this header. Raises jwt.InvalidTokenError or KeysUnavailable."""
        kid = header.get("kid")
        known = bool(self._keys.find(kid))
        age = time.monotonic() - self._fetched
        if known and self._cache_seconds < age <= 2 * self._cache_seconds:
            self._revalidate()
        elif (not known and not self._known_as_unknown(kid)) or age > self._cache_seconds:
            await self._refresh()
        if not self._usable:
            raise KeysUnavailable("the issuer's keys can't be fetched now")
        found = self._keys.find(kid)
        if not found:
            self._note_unknown(kid)
            raise jwt.InvalidTokenError("its key id (kid) is not among the issuer's keys")
        return keys_for(found, header.get("alg"))

    async def renewed(self, header: dict[str, Any], tried: Sequence[VerifyingKey]) -> bool:
        """Return whether there are other keys now than those that a token was `tried` with in vain.

        If a key without an id was replaced, the token does not show that: then the keys are fetched.
        """
        kid = header.get("kid")
        if not self._keys.names(kid):
            await self._refresh()
        return any(header.get("alg") in key.algorithms and key not in tried for key in self._keys.find(kid))

    def _known_as_unknown(self, kid: Any) -> bool:
        return isinstance(kid, str) and time.monotonic() - self._unknown.get(kid, float("-inf")) < _UNKNOWN_FOR

    def _note_unknown(self, kid: Any) -> None:
        """Note a key id that is missing, if the keys were fetched just before."""
        if isinstance(kid, str) and kid not in self._unknown and time.monotonic() - self._fetched < _AT_MOST_EVERY:
            self._unknown[kid] = self._fetched
            if len(self._unknown) > _UNKNOWN:
                del self._unknown[next(iter(self._unknown))]

    def _revalidate(self) -> None:
        if self._revalidating is None:
            self._revalidating = asyncio.create_task(self._refresh())
            self._revalidating.add_done_callback(self._revalidated)

    def _revalidated(self, done: asyncio.Task[None]) -> None:
        self._revalidating = None
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.error("fetching the keys of %s failed", self._url, exc_info=error)

    async def _refresh(self, every: float = _AT_MOST_EVERY) -> None:
        """Fetch the keys, unless they were fetched, or it was tried, less than `every` seconds ago."""
        async with self._fetching:
            if time.monotonic() - self._tried < every:
                return  # another task just did
            self._tried = time.monotonic()
            try:
                self._keys = await self._fetch()
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self._on_fetch("failed")
                self._why = str(error) or type(error).__name__
                self._log_failure()
                return
            self._fetched, self._why = self._tried, None
            self._unknown = {kid: since for kid, since in self._unknown.items() if not self._keys.names(kid)}
            self._on_fetch("fetched")

    def _log_failure(self) -> None:
        """Log why there are no newer keys. Present keys stay valid for a while."""
        if self._usable:
            self._failures.log(_log, logging.WARNING, "keeping the keys of %s: %s", self._url, self._why)
        else:
            self._failures.log(_log, logging.ERROR, "%s; until then no token can be verified", self.trouble)

    async def _fetch(self) -> KeySet:
        """Fetch the keys. Raises aiohttp.ClientError, TimeoutError, OSError or ValueError."""
        if self._http is None:
            connector = aiohttp.TCPConnector(force_close=True)
            self._http = aiohttp.ClientSession(
                timeout=_TIMEOUT, connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            )
        async with self._http.get(self._url, allow_redirects=False) as response:
            response.raise_for_status()
            if response.status != 200:
                raise ValueError(f"it answers with status {response.status}: redirects are not followed")
            text = bytearray()
            async for chunk in response.content.iter_any():
                text += chunk
                if len(text) > _LARGEST:
                    raise ValueError(f"its keys are larger than {_LARGEST} bytes")
        keys, ignored = key_set(_json(bytes(text)))
        if ignored != self._ignored:
            self._ignored = ignored
            for why in ignored[:_SHOWN]:
                _log.warning("a key of %s is ignored, %s", self._url, why)
        if not keys.keys:
            raise ValueError("none of its keys verifies tokens" + "".join(f"; {why}" for why in ignored[:_SHOWN]))
        return keys

    async def close(self) -> None:
        """Close the connection to the issuer."""
        if self._revalidating is not None:
            await cancel_task(self._revalidating)
        if self._http is not None:
            await self._http.close()
