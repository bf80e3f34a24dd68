"""Compressed answers, for a client that asks for one coding alone.

Most clients accept gzip without meaning it, and on localhost compression costs more than it saves: so it is done only for a
client that accepts a single coding, as V2's clients ask for it (tritonclient's `response_compression_algorithm`).
"""

import asyncio
import zlib
from collections.abc import Callable

from podpair.inference.http1.requests import Response

# Smaller answers aren't worth it; larger ones are compressed in a thread.
SMALLEST_BYTES, _LARGE_BYTES = 1024, 65_536
# zlib's window sizes: gzip's header, zlib's. The codings of `request_head.CODINGS`.
_WINDOWS = {"gzip": 31, "deflate": 15}


def compress(response: Response, coding: str, done: Callable[[Response], object]) -> None:
    """Call `done` with the compressed response, in the loop, now or later."""
    if sum(len(segment) for segment in response.body) < _LARGE_BYTES:
        done(_compressed(response, coding))
        return
    future = asyncio.get_running_loop().run_in_executor(None, _compressed, response, coding)
    future.add_done_callback(lambda compressed: done(compressed.result()))


def _compressed(response: Response, coding: str) -> Response:
    compressor = zlib.compressobj(1, wbits=_WINDOWS[coding])
    body = b"".join([*map(compressor.compress, response.body), compressor.flush()])
    headers = b"%bContent-Encoding: %b\r\nVary: Accept-Encoding\r\n" % (response.headers, coding.encode())
    return Response(response.status, (body,), headers)
