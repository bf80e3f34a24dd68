"""What a request says besides its tensors: its headers, and a body that isn't too large."""

import math
import time

from aiohttp import web

from podpair.inference.core.errors import InvalidRequestError, TooLargeError

DEADLINE = "podpair-deadline"
# Requests with the same key are answered by the same version of a model.
KEY = "podpair-key"
HEADER_LENGTH = "Inference-Header-Content-Length"


def deadline(request: web.Request) -> float | None:
    """The deadline, in Unix milliseconds there, on the monotonic clock here. Raises InvalidRequestError."""
    header = request.headers.get(DEADLINE)
    if header is None:
        return None
    try:
        left = float(header) / 1000 - time.time()
    except ValueError:
        raise InvalidRequestError(f"{DEADLINE} is {header!r}; it is a time in Unix milliseconds") from None
    if not math.isfinite(left):
        raise InvalidRequestError(f"{DEADLINE} is {header!r}; it is a time in Unix milliseconds")
    return time.monotonic() + left


def header_length(request: web.Request) -> int | None:
    """How long the JSON is, where raw tensors follow it. Raises InvalidRequestError."""
    header = request.headers.get(HEADER_LENGTH)
    if header is None:
        return None
    if not (header.isascii() and header.isdecimal()):
        raise InvalidRequestError(f"{HEADER_LENGTH} is {header!r}; it is the number of bytes of the JSON")
    return int(header)


def target(request: web.Request) -> tuple[str, str | None, str | None]:
    """The model, its version where the path names one, and the key."""
    match = request.match_info
    return match["model"], match.get("version"), request.headers.get(KEY)


async def body(request: web.Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes. Raises TooLargeError or InvalidRequestError."""
    if (request.content_length or 0) > limit:
        raise TooLargeError(f"{request.content_length} bytes, the limit is {limit} (server.max_body_bytes)")
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise TooLargeError(f"more than {limit} bytes (server.max_body_bytes)") from None
    except web.RequestPayloadError as error:
        raise InvalidRequestError(f"the body can't be read: {error}") from None
