"""Answers packed for a client that asks for it.

Most clients accept gzip without meaning it, and on localhost packing costs more than it saves: so it is done for one that accepts
one coding alone, as V2's clients say it (tritonclient's `response_compression_algorithm`).
"""

import asyncio
import zlib
from collections.abc import Callable

from podpair.inference.http.requests import Response

# What is smaller isn't worth it; what is larger is packed in a thread.
SMALLEST_BYTES, _LARGE_BYTES = 1024, 65_536
# zlib's window sizes: gzip's header, zlib's.
_WINDOWS = {"gzip": 31, "deflate": 15}


def wanted(accepted: str | None) -> str | None:
    """The coding that a client's Accept-Encoding asks for."""
    name = (accepted or "").strip().lower()
    return name if name in _WINDOWS else None


def pack(response: Response, coding: str, done: Callable[[Response], object]) -> None:
    """Call `done` with the packed response, in the loop, now or later."""
    if sum(len(part) for part in response.body) < _LARGE_BYTES:
        done(_packed(response, coding))
        return
    future = asyncio.get_running_loop().run_in_executor(None, _packed, response, coding)
    future.add_done_callback(lambda packed: done(packed.result()))


def _packed(response: Response, coding: str) -> Response:
    packer = zlib.compressobj(1, wbits=_WINDOWS[coding])
    body = b"".join([*map(packer.compress, response.body), packer.flush()])
    headers = b"%bContent-Encoding: %b\r\nVary: Accept-Encoding\r\n" % (response.headers, coding.encode())
    return Response(response.status, (body,), headers)
