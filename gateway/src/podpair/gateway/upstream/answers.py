"""What the answers of a model's server over HTTP mean, and what is taken of them.

Invariant: nothing that a server says is taken as it is: numbers are checked, waits are bounded, texts are cut, and bodies have a
limit.
"""

import math
import time
from collections.abc import Mapping

import aiohttp

from podpair.gateway.core.attempts import (
    Busy,
    Failed,
    ServiceUnavailable,
    TooLarge,
    Unavailable,
    retry_after,
    until_date,
)
from podpair.gateway.core.chat import reason_of
from podpair.gateway.core.protocol import Code, Fault

_ERROR_BYTES = 1 << 16  # of an error's body that are looked at
_LONGEST_MS = 1e9  # of an inference
_SERVICE_BUSY = 1.0  # seconds, where 503 does not say when to come again


def error_of_status(status: int, body: bytes, headers: Mapping[bytes, bytes]) -> Exception:
    """What an answer other than 200 means: Fault where the request is at fault, else ServiceUnavailable, Busy or Failed."""
    if 300 <= status < 400:
        return Failed(
            f"it redirects (status {status}), which is not followed: inference.url must name the server itself"
        )
    message = _said(body[:_ERROR_BYTES]) or f"status {status}"
    match status:
        case 404:
            return Fault(Code.NOT_FOUND, message)
        case 408:  # of an idle connection mostly, that was about to be closed: the request was not read
            return Failed(message)
        case 429:
            return Busy(wait_of(headers, 0.05))
        case 503:
            return ServiceUnavailable(message, wait_of(headers, _SERVICE_BUSY), said=message)
        case 504:
            return Fault(Code.DEADLINE_EXCEEDED, message)
        case _ if 400 <= status < 500:
            return Fault(Code.INVALID, message)
        case _:
            return Failed(message)


def _said(body: bytes) -> str:
    return reason_of(body) or body[:200].decode(errors="replace")


def wait_of(headers: Mapping[bytes, bytes], default: float) -> float:
    """Seconds until a busy server is asked again, 30 at most: of podpair's finer header, or of HTTP's."""
    found = retry_after(headers.get(b"podpair-retry-after-ms"), 0.001)
    if found is None and (text := headers.get(b"retry-after")) is not None:
        found = retry_after(text) or until_date(text, time.time()) or _SERVICE_BUSY
    return default if found is None else found


def inference_ms(headers: Mapping[bytes, bytes]) -> float | None:
    """How long the model took, as far as its server says so in a number that is one."""
    try:
        found = float(headers[b"podpair-inference-ms"])
    except (KeyError, ValueError):
        return None
    return found if math.isfinite(found) and 0.0 <= found <= _LONGEST_MS else None


def error_of_client(url: str, error: Exception) -> Unavailable | Failed:
    """What an error of aiohttp's client means."""
    message = f"{url}: {str(error) or type(error).__name__}"
    if isinstance(error, aiohttp.ClientConnectorError):
        # Whoever could not connect has not given it anything to die of.
        return Unavailable(message, down=True)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | ValueError):
        return Failed("its answer is not HTTP/1.1")  # which clients are told, and so not where it is
    return Unavailable(message, midway=True)


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body. Raises TooLarge."""
    if (response.content_length or 0) > limit:
        raise TooLarge(limit)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLarge(limit)
    return bytes(body)


async def read_error(response: aiohttp.ClientResponse) -> Exception:
    """What an answer that is none means."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= _ERROR_BYTES:
            break
    return error_of_status(response.status, bytes(body), lower(response.headers))


def lower(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Headers as a call's answer has them."""
    return {name.lower().encode(): value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
