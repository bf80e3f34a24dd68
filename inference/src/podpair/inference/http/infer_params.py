"""What a request says besides its tensors: its headers, and a body that may be compressed."""

import re
import time
import zlib
from typing import NamedTuple

from podpair.inference.core.batching import NORMAL, parse_priority
from podpair.inference.core.errors import InvalidRequestError, TooLargeError
from podpair.inference.http1.request_head import parse_byte_count
from podpair.inference.http1.requests import Request, Segment

DEADLINE = "podpair-deadline"
TRACE = "traceparent"
# Requests with the same key are answered by the same version of a model.
KEY = "podpair-key"
# `high`, `normal` or `low`: which requests run first where some have to wait.
PRIORITY = "podpair-priority"
HEADER_LENGTH = "Inference-Header-Content-Length"

# No number of seconds since 1970 that a client may mean by "never" exceeds an INT64.
_MILLISECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]{0,9})?")
# zlib's window sizes: gzip's header, zlib's.
_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class InferParams(NamedTuple):
    """What a head says about an inference."""

    model: str
    version: str | None
    key: str | None
    # The length of the JSON, if raw tensors follow it.
    header_length: int | None
    has_deadline: bool
    # Whether the body isn't compressed.
    uncompressed: bool
    # The traceparent, if there is one.
    trace: str | None
    priority: int = NORMAL


def read_params(request: Request) -> InferParams:
    """Read them all. Raises InvalidRequestError."""
    uncompressed = request.header("content-encoding") is None
    has_deadline = request.header(DEADLINE) is not None
    return InferParams(
        *target(request), header_length(request), has_deadline, uncompressed, request.header(TRACE), priority(request)
    )


def priority(request: Request) -> int:
    """Return the request's priority. Raises InvalidRequestError."""
    return parse_priority(request.header(PRIORITY))


def deadline(request: Request) -> float | None:
    """Convert the deadline from Unix milliseconds to the monotonic clock. Raises InvalidRequestError."""
    header = request.header(DEADLINE)
    if header is None:
        return None
    if _MILLISECONDS.fullmatch(header) is None:
        raise InvalidRequestError(f"{DEADLINE} is {header[:40]!r}; it is a time in Unix milliseconds")
    return time.monotonic() + float(header) / 1000 - time.time()


def header_length(request: Request) -> int | None:
    """Return the length of the JSON, if raw tensors follow it. Raises InvalidRequestError."""
    header = request.header("inference-header-content-length")
    if header is None:
        return None
    length = parse_byte_count(header)
    if length is None:
        raise InvalidRequestError(f"{HEADER_LENGTH} is {header[:40]!r}; it is the number of bytes of the JSON")
    return length


def target(request: Request) -> tuple[str, str | None, str | None]:
    """Return the model, its version if the path names one, and the key."""
    params = request.path_params
    return params["model"], params.get("version"), request.header(KEY)


def body(request: Request, limit: int) -> Segment:
    """Return the decompressed body, of at most `limit` bytes. Raises TooLargeError or InvalidRequestError."""
    coding = request.header("content-encoding")
    if coding is None or coding.lower() == "identity":
        return request.body
    window = _CODINGS.get(coding.lower())
    if window is None:
        raise InvalidRequestError(f"Content-Encoding: {coding} is not served; there are gzip and deflate")
    decompressor = zlib.decompressobj(window)
    try:
        content = decompressor.decompress(request.body, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body can't be read as {coding}: {error}") from None
    if len(content) > limit:
        raise TooLargeError(f"more than {limit} bytes once unpacked (server.max_body_bytes)")
    if not decompressor.eof or decompressor.unused_data:
        raise InvalidRequestError(f"the body can't be read as {coding}: it ends too early or too late")
    return content
