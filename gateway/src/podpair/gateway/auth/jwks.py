"""Keys that an issuer publishes (RFC 7517): cached, fetched again when they age or a new key id turns up.

Keys that have aged are used while newer ones are fetched: no client waits for the issuer. Only after twice that time is it
waited for, so that a key that was withdrawn long ago lets nobody in.

Invariant: a token never decides how often the issuer is asked: unknown key ids cause at most one fetch in ten seconds, and one
that the issuer has just been asked for causes none.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import jwt

from podpair.gateway.auth.identity import KeysUnavailable

_log = logging.getLogger(__name__)
_AT_MOST_EVERY = 10.0  # seconds between fetches that unknown key ids, or failures, cause
_UNKNOWN_FOR = 60.0  # seconds that a key id counts as unknown after the issuer did not have it
_UNKNOWN = 1000  # key ids that are remembered as unknown
_LARGEST = 1 << 20  # bytes of a key set
_TIMEOUT = aiohttp.ClientTimeout(total=5)


def _json(text: bytes) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its keys are nested too deep") from None


class Jwks:
    """The keys at one URL, by key id."""

    algorithms = ("RS256", "ES256", "EdDSA")

    def __init__(self, url: str, cache_seconds: float, on_fetch: Callable[[str], object] = lambda _: None) -> None:
        self._url = url
        self._on_fetch = on_fetch  # called with the outcome, `fetched` or `failed`
        self._cache_seconds = cache_seconds
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = float("-inf")  # monotonic: the last success
        self._tried = float("-inf")  # monotonic: the last attempt
        self._unknown: dict[str, float] = {}  # key ids that the issuer did not have, and when; oldest first
        self._fetching = asyncio.Lock()
        self._revalidating: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None

    async def prepare(self) -> None:
        """Fetch the keys before a token needs them: whoever has configured a wrong URL reads of it at once."""
        await self._refresh()

    async def key(self, header: dict[str, Any]) -> Any:
        """The key for a token with this header. Raises jwt.InvalidTokenError or KeysUnavailable."""
        kid = header.get("kid")
        known = self._find(kid)
        age = time.monotonic() - self._fetched
        if known is not None and self._cache_seconds < age <= 2 * self._cache_seconds:
            self._revalidate()
        elif (known is None and not self._known_as_unknown(kid)) or age > self._cache_seconds:
            await self._refresh()
            if not self._keys:
                raise KeysUnavailable("the issuer's keys can't be fetched now")
            known = self._find(kid)
        if known is None:
            self._note_unknown(kid)
            raise jwt.InvalidTokenError("its key id (kid) is not among the issuer's keys")
        if known.algorithm_name != header.get("alg"):
            raise jwt.InvalidAlgorithmError(f"its key is for {known.algorithm_name}")
        return known.key

    def _known_as_unknown(self, kid: Any) -> bool:
        return isinstance(kid, str) and time.monotonic() - self._unknown.get(kid, float("-inf")) < _UNKNOWN_FOR

    def _note_unknown(self, kid: Any) -> None:
        """The keys in hand have it not. Only what the issuer was asked after it was first seen is sure."""
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

    def _find(self, kid: Any) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid) if isinstance(kid, str) else None

    async def _refresh(self) -> None:
        async with self._fetching:
            if time.monotonic() - self._tried < _AT_MOST_EVERY:
                return  # someone just did
            self._tried = time.monotonic()
            try:
                self._keys = await self._fetch()
                self._fetched = self._tried
                self._unknown = {k: since for k, since in self._unknown.items() if k not in self._keys}
                self._on_fetch("fetched")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, jwt.PyJWTError) as error:
                self._on_fetch("failed")
                # Keys that were good stay good while the issuer is away.
                why = str(error) or type(error).__name__
                if self._keys:
                    _log.warning("keeping the keys of %s: %s", self._url, why)
                else:
                    _log.error("no keys of auth.jwks_url %s, so no token can be verified yet: %s", self._url, why)

    async def _fetch(self) -> dict[str | None, jwt.PyJWK]:
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
            found = _json(bytes(text))
        keys: dict[str | None, jwt.PyJWK] = {}
        for item in found["keys"] if isinstance(found, dict) and isinstance(found.get("keys"), list) else ():
            try:
                key = jwt.PyJWK(item)
            except (jwt.PyJWTError, AttributeError) as error:
                _log.info("a key of %s is not for us: %s", self._url, error)
                continue
            if item.get("use", "sig") == "sig" and key.algorithm_name in self.algorithms:
                keys[key.key_id] = key
        if not keys:
            raise ValueError("it holds no RS256, ES256 or EdDSA keys")
        return keys

    async def close(self) -> None:
        """Close the connection to the issuer."""
        if self._revalidating is not None:
            self._revalidating.cancel()
            await asyncio.gather(self._revalidating, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
