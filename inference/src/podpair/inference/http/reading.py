"""What a request says besides its tensors: its headers, and a body that may be compressed."""

import re
import time
import zlib
from typing import NamedTuple

from podpair.inference.core.errors import InvalidRequestError, TooLargeError
from podpair.inference.http.heads import number_of_bytes
from podpair.inference.http.requests import Part, Request

DEADLINE = "podpair-deadline"
TRACE = "traceparent"
# Requests with the same key are answered by the same version of a model.
KEY = "podpair-key"
HEADER_LENGTH = "Inference-Header-Content-Length"

# What no number of seconds since 1970 exceeds that a client may mean by "never": an INT64.
_MILLISECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]{0,9})?")
# zlib's window sizes: gzip's header, zlib's.
_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Asking(NamedTuple):
    """What a head says about an inference."""

    model: str
    version: str | None
    key: str | None
    # How long the JSON is, where raw tensors follow it.
    header_length: int | None
    # Whether there is a deadline, and whether the body isn't packed.
    hurried: bool
    plain: bool
    # The traceparent, where there is one.
    trace: str | None


def asking(request: Request) -> Asking:
    """All of it, read once for each head. Raises InvalidRequestError."""
    known: Asking | None = request.head.asking
    if known is None:
        plain = request.header("content-encoding") is None
        hurried = request.header(DEADLINE) is not None
        known = request.head.asking = Asking(
            *target(request), header_length(request), hurried, plain, request.header(TRACE)
        )
    return known


def deadline(request: Request) -> float | None:
    """The deadline, in Unix milliseconds there, on the monotonic clock here. Raises InvalidRequestError."""
    header = request.header(DEADLINE)
    if header is None:
        return None
    if _MILLISECONDS.fullmatch(header) is None:
        raise InvalidRequestError(f"{DEADLINE} is {header[:40]!r}; it is a time in Unix milliseconds")
    return time.monotonic() + float(header) / 1000 - time.time()


def header_length(request: Request) -> int | None:
    """How long the JSON is, where raw tensors follow it. Raises InvalidRequestError."""
    header = request.header("inference-header-content-length")
    if header is None:
        return None
    length = number_of_bytes(header)
    if length is None:
        raise InvalidRequestError(f"{HEADER_LENGTH} is {header[:40]!r}; it is the number of bytes of the JSON")
    return length


def target(request: Request) -> tuple[str, str | None, str | None]:
    """The model, its version where the path names one, and the key."""
    values = request.values
    return values["model"], values.get("version"), request.header(KEY)


def body(request: Request, limit: int) -> Part:
    """The body, unpacked, of at most `limit` bytes. Raises TooLargeError or InvalidRequestError."""
    coding = request.header("content-encoding")
    if coding is None or coding.lower() == "identity":
        return request.body
    window = _CODINGS.get(coding.lower())
    if window is None:
        raise InvalidRequestError(f"Content-Encoding: {coding} is not served; there are gzip and deflate")
    unpacker = zlib.decompressobj(window)
    try:
        content = unpacker.decompress(request.body, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body can't be read as {coding}: {error}") from None
    if len(content) > limit:
        raise TooLargeError(f"more than {limit} bytes once unpacked (server.max_body_bytes)")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequestError(f"the body can't be read as {coding}: it ends too early or too late")
    return content
