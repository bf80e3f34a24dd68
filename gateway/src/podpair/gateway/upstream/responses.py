"""Interprets the HTTP responses of a model's server: errors, waits and limits.

Invariant: nothing that a server says is taken as it is: numbers are checked, waits are bounded, texts are cut, and bodies have a
limit.
"""

import math
import time
from collections.abc import Mapping

import aiohttp
import msgspec

from podpair.gateway.core.chat import reason_of
from podpair.gateway.core.model_errors import Busy, Failed, ServiceUnavailable, TooLarge, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.retry_after import parse_retry_after, parse_retry_date

_ERROR_BYTES = 1 << 16  # of an error's body that are looked at
_LONGEST_MS = 1e9  # of an inference
_SERVICE_BUSY = 1.0  # seconds, if 503 does not say when to come again


def error_of_status(status: int, body: bytes, headers: Mapping[bytes, bytes]) -> Exception:
    """Convert a response other than 200 to its error: Fault if the request is at fault, else ServiceUnavailable, Busy or
    Failed.
    """
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


def error_of_chunk(status: int, message: str) -> Exception:
    """Convert the error in a stream that had begun: the status is that of a response, 500 if the server has not said it."""
    body = msgspec.json.encode({"error": message})
    return error_of_status(status, body, {}) if 400 <= status < 600 else Failed(message)


def _said(body: bytes) -> str:
    return reason_of(body) or body[:200].decode(errors="replace")


def wait_of(headers: Mapping[bytes, bytes], default: float) -> float:
    """Return the seconds until a busy server is called again, 30 at most: from podpair's finer header, or from HTTP's."""
    found = parse_retry_after(headers.get(b"podpair-retry-after-ms"), 0.001)
    if found is None and (text := headers.get(b"retry-after")) is not None:
        found = parse_retry_after(text) or parse_retry_date(text, time.time()) or _SERVICE_BUSY
    return default if found is None else found


def inference_ms(headers: Mapping[bytes, bytes]) -> float | None:
    """Return how long the model took, if its server says so in a valid number."""
    try:
        found = float(headers[b"podpair-inference-ms"])
    except (KeyError, ValueError):
        return None
    return found if math.isfinite(found) and 0.0 <= found <= _LONGEST_MS else None


def error_of_client(url: str, error: Exception) -> Unavailable | Failed:
    """Convert an error of aiohttp's client to its meaning."""
    message = f"{url}: {str(error) or type(error).__name__}"
    if isinstance(error, aiohttp.ClientConnectorError):
        # Whoever could not connect has not given it anything to die of.
        return Unavailable(message, down=True)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | ValueError):
        return Failed("its answer is not HTTP/1.1")  # which clients get, and so without its address
    return Unavailable(message, midway=True)


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read the body. Raises TooLarge."""
    if (response.content_length or 0) > limit:
        raise TooLarge(limit)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLarge(limit)
    return bytes(body)


async def read_error(response: aiohttp.ClientResponse) -> Exception:
    """Read an error response, and return what it means."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= _ERROR_BYTES:
            break
    return error_of_status(response.status, bytes(body), lower(response.headers))


def lower(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return headers in the form of a call's answer."""
    return {name.lower().encode(): value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
