"""The body after a request's head: of the length that the head gives, or chunked (RFC 9112, 6.3).

llhttp decodes a chunked body; its end is also found here, and both have to agree, so that what follows it is the next request
and nothing else.
"""

import re
from contextlib import suppress

import httptools
import numpy as np

from podpair.inference.http1.request_head import MAX_HEAD_BYTES, HeadError, parse_byte_count

# Tensors begin at a multiple of this if that can be chosen: vector instructions prefer it.
_ALIGNED = 64
_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_SIZE = re.compile(rb"0*([0-9A-Fa-f]{0,15})(?:;[^\n]*)?\r\n")
# Bytes of a chunk's first line that are nothing unusual.
_USUAL_BYTES = 16


def aligned_buffer(length: int, header_length: str) -> memoryview:
    """Return uninitialised memory for a body, in which what follows `header_length` bytes of JSON is aligned, so that the
    model can read its tensors where they are.
    """
    before = parse_byte_count(header_length) or 0
    memory = np.empty(length + _ALIGNED, np.uint8)
    start = -(memory.__array_interface__["data"][0] + min(before, length)) % _ALIGNED
    return memory[start : start + length].data


class ChunkedBody:
    """One body after `Transfer-Encoding: chunked` (RFC 9112, 7.1), as far as it has been received."""

    def __init__(self) -> None:
        self.content = bytearray()
        # The announced size of all chunks so far, received or not.
        self.size = 0
        # Bytes of sizes, extensions and trailers, and their limit.
        self._framing, self._allowed = 0, MAX_HEAD_BYTES
        # An incomplete line; bytes that are still missing of the current chunk, with its line end.
        self._line = b""
        self._left = 0
        self._trailers = self._complete = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def feed(self, data: bytes) -> int | None:
        """Read more. Return how many of these bytes belong to the body once it is complete, else None. Raises HeadError."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._add(data[at:end])
            at = end
            if self._line.endswith(b"\n") and self._is_last(self._line):
                self._parse(data[:at])
                if not self._complete:
                    raise _malformed()
                return at
        self._parse(data)
        if self._complete:
            raise _malformed()
        return None

    def _add(self, piece: bytes) -> None:
        """Add a line or part of a line; this is the only limit of extensions and trailers (RFC 9112, 7.1.1)."""
        self._line = piece if self._line.endswith(b"\n") else self._line + piece
        self._framing += len(piece)
        if self._framing > self._allowed:
            raise HeadError(413, f"more than {MAX_HEAD_BYTES} bytes of chunk extensions and trailers")

    def _is_last(self, line: bytes) -> bool:
        """Return whether this line is the body's last one."""
        if self._trailers:
            return line == b"\r\n"
        found = _SIZE.fullmatch(line)
        if found is None or line[:1] in b";\r":
            raise _malformed()
        size = int(found[1] or b"0", 16)
        if size == 0:
            self._trailers = True
        else:
            self._left = size + len(b"\r\n")
            self.size += size
            self._allowed += _USUAL_BYTES + size
        return False

    def _parse(self, data: bytes) -> None:
        try:
            # A trailer that asks for another protocol is ignored.
            with suppress(httptools.HttpParserUpgrade):
                self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise _malformed() from None

    def on_body(self, data: bytes) -> None:
        """Add the content of a chunk (called by the parser)."""
        self.content += data

    def on_message_complete(self) -> None:
        """Note that llhttp has found the end (called by the parser)."""
        self._complete = True


def _malformed() -> HeadError:
    # One text for both: which of them finds the fault first depends on the pieces.
    return HeadError(400, "the body isn't chunked as it should be (RFC 9112, 7.1)")
