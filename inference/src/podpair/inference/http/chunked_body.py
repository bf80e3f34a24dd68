"""The body behind a head that says `Transfer-Encoding: chunked` (RFC 9112, 7.1).

llhttp reads it; where it ends is found here, and both have to agree, so that what is behind it is the next request and
nothing else.
"""

import re
from contextlib import suppress

import httptools

from podpair.inference.http.heads import MAX_HEAD_BYTES, HeadError

_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_SIZE = re.compile(rb"0*([0-9A-Fa-f]{0,15})(?:;[^\n]*)?\r\n")
# Bytes of a chunk's first line that are nothing unusual.
_USUAL_BYTES = 16


class ChunkedBody:
    """One body, as far as it has come."""

    def __init__(self) -> None:
        self.content = bytearray()
        # What chunks say they hold, also what of them is still to come.
        self.size = 0
        # Bytes of sizes, extensions and trailers, and what of them there may be.
        self._framing, self._allowed = 0, MAX_HEAD_BYTES
        # A line of which more is to come; bytes that the present chunk still has, with its line end.
        self._line = b""
        self._left = 0
        self._trailers = self._complete = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def feed(self, data: bytes) -> int | None:
        """Read more; how many of these bytes belong to the body once it is complete, None until then. Raises HeadError."""
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
            if self._line.endswith(b"\n") and self._ends(self._line):
                self._judge(data[:at])
                if not self._complete:
                    raise _wrong()
                return at
        self._judge(data)
        if self._complete:
            raise _wrong()
        return None

    def _add(self, piece: bytes) -> None:
        """Take a line, or a part of one; extensions and trailers have no limit but this (RFC 9112, 7.1.1)."""
        self._line = piece if self._line.endswith(b"\n") else self._line + piece
        self._framing += len(piece)
        if self._framing > self._allowed:
            raise HeadError(413, f"more than {MAX_HEAD_BYTES} bytes of chunk extensions and trailers")

    def _ends(self, line: bytes) -> bool:
        """Whether this line is the body's last one."""
        if self._trailers:
            return line == b"\r\n"
        found = _SIZE.fullmatch(line)
        if found is None or line[:1] in b";\r":
            raise _wrong()
        size = int(found[1] or b"0", 16)
        if size == 0:
            self._trailers = True
        else:
            self._left = size + len(b"\r\n")
            self.size += size
            self._allowed += _USUAL_BYTES + size
        return False

    def _judge(self, data: bytes) -> None:
        try:
            # A trailer that asks for another protocol asks in vain.
            with suppress(httptools.HttpParserUpgrade):
                self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise _wrong() from None

    def on_body(self, data: bytes) -> None:
        """Take what a chunk holds."""
        self.content += data

    def on_message_complete(self) -> None:
        """Learn that llhttp has found the end."""
        self._complete = True


def _wrong() -> HeadError:
    # In one text, for which of both finds it first depends on the pieces.
    return HeadError(400, "the body isn't chunked as it should be (RFC 9112, 7.1)")
