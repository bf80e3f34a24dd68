"""One HTTP/1.1 answer, read byte for byte (RFC 9112, RFC 9110), and whether its connection may carry another.

Invariant: an answer is what its framing says and nothing else. Interim answers (1xx) are passed over; an answer whose end can't
be known for sure (two lengths, a length beside chunks, a coding that was not asked for) is none; and `reusable` is true only
if all bytes so far belonged to a whole answer after which the server keeps the connection.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

_MOST_OVERHEAD = 1 << 16  # bytes of an answer that are not its body, and not the bare sizes of its chunks
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_START = b"HTTP/1."
_USUAL = b"HTTP/1.1 200 OK\r\n"
_FRAMING = frozenset((b"connection", b"transfer-encoding"))
_MOST_FIELDS, _LONGEST_FIELD = 512, 128  # header lines that are kept as they were read: most come again and again
_fields: dict[bytes, tuple[bytes, bytes]] = {}


class Response(NamedTuple):
    """An answer. The names of its headers are in lower case; values of headers that came twice are joined by commas."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class BadResponse(Exception):
    """The data is no response in HTTP/1.1."""


class ResponseTooLarge(Exception):
    """The response's body is larger than the limit."""


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return a header's name in lower case, and its value. Raises BadResponse."""
    found = _fields.get(line)
    if found is None:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadResponse("a line of its head is malformed")
        found = match[1].lower(), match[2].rstrip(b" \t")
        if len(line) <= _LONGEST_FIELD:
            if len(_fields) >= _MOST_FIELDS:
                _fields.clear()
            _fields[line] = found
    return found


def whole_response(data: bytes, limit: int) -> Response | None:
    """Parse `data` if it is the whole response, of the usual kind, to a request other than HEAD, and leaves its connection
    reusable; return None if it has to be read step by step. Raises BadResponse.
    """
    end = data.find(b"\r\n\r\n")
    start = len(_USUAL)
    if not start < end <= _MOST_OVERHEAD or not data.startswith(_USUAL):
        return None
    lines = data[start:end].split(b"\r\n")
    headers = dict([_fields.get(line) or _field(line) for line in lines])
    body = data[end + 4 :]
    size = len(body)
    if (
        headers.get(b"content-length") != b"%d" % size or size > limit or len(headers) != len(lines)
        or not _FRAMING.isdisjoint(headers)
    ):  # fmt: skip
        return None
    return Response(200, headers, body)


class ResponseReader:
    """Reads the answer to one request (not to CONNECT) with a body of at most `limit` bytes; `bodiless`: to HEAD."""

    __slots__ = (
        "_bodiless", "_body", "_buffer", "_code", "_headers", "_left", "_limit", "_looked", "_overhead", "_size", "_step",
        "response", "reusable",
    )  # fmt: skip

    def __init__(self, limit: int, *, bodiless: bool = False) -> None:
        self.response: Response | None = None  # there once the answer is whole
        self.reusable = False
        self._limit = limit
        self._bodiless = bodiless
        self._step: Callable[[ResponseReader], bool] = ResponseReader._head  # not bound: no cycle
        self._buffer = b""  # what is not read yet
        self._looked = 0  # bytes of it in which no end of a head begins
        self._overhead = 0  # bytes so far that are not the body's
        self._left = 0  # bytes of the body, or of the chunk, that are missing; -1: until the connection ends
        self._size = 0  # bytes of the body so far
        self._body: bytes | bytearray = b""
        self._code = 0
        self._headers: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> Response | None:
        """Read further; the answer once it is whole. Raises BadResponse or ResponseTooLarge."""
        if self.response is not None:
            self.reusable = False
            return self.response
        self._buffer = self._buffer + data if self._buffer else data
        while self._step(self):
            pass
        if self.response is not None and self._buffer:
            self.reusable = False  # bytes behind the answer belong to nobody
        return self.response

    def end(self) -> Response | None:
        """Handle the connection's end: return the response if that was its end, None if it is cut off."""
        if self.response is None and self._left < 0:
            self._finish()
        return self.response

    # Each step returns whether the next one can be tried.

    def _head(self) -> bool:
        buffer = self._buffer
        if buffer[: len(_START)] != _START[: len(buffer)]:
            raise BadResponse(f"it begins with {buffer[:20]!r}")
        end = buffer.find(b"\r\n\r\n", self._looked)
        if end < 0:
            if buffer.count(b"\n") != buffer.count(b"\r\n"):
                raise BadResponse("a line of its head ends without CR")
            self._wait(3)
            return False
        self._buffer, self._looked = buffer[end + 4 :], 0
        self._spend(end + 4)
        first, _, fields = buffer[:end].partition(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            raise BadResponse("it has no status")
        headers: dict[bytes, bytes] = {}
        for line in fields.split(b"\r\n") if fields else ():
            name, value = _field(line)
            headers[name] = headers[name] + b", " + value if name in headers else value
        code = int(status[2])
        if code < 200:
            if code == 101:
                raise BadResponse("it switches protocols, for which nobody asked")
            return bool(self._buffer)
        return self._begin(code, headers, old=status[1] == b"0")

    def _begin(self, code: int, headers: dict[bytes, bytes], *, old: bool) -> bool:
        """Choose how the body is read once the head is complete (RFC 9112, 6.3). `old`: HTTP/1.0."""
        options = headers.get(b"connection")
        if options is None:
            self.reusable = not old
        else:
            named = {option.strip() for option in options.lower().split(b",")}
            self.reusable = b"close" not in named and (not old or b"keep-alive" in named)
        self._code, self._headers = code, headers
        length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
        if coding is not None and (length is not None or old or coding.lower() != b"chunked"):
            raise BadResponse("the length of its body is ambiguous")
        if length is not None:
            values = {value.strip() for value in length.split(b",")}
            if len(values) != 1 or _DIGITS.fullmatch(value := values.pop()) is None:
                raise BadResponse("its Content-Length is no length")
            self._left = int(value)
        if self._bodiless or code in (204, 304):
            self._left = 0
        elif coding is not None:
            self._step = ResponseReader._chunk
            return True
        elif length is None:
            self.reusable = False
            self._left = -1
            self._step = ResponseReader._rest
            return True
        if self._left > self._limit:
            raise ResponseTooLarge
        self._step = ResponseReader._sized
        return True

    def _sized(self) -> bool:
        """Read a body of known length."""
        if self._take():
            self._finish()
        return False

    def _rest(self) -> bool:
        """Read a body that ends with the connection."""
        self._keep(self._buffer)
        self._buffer = b""
        return False

    def _chunk(self) -> bool:
        """Read the line before a chunk."""
        line = self._line()
        if line is None:
            return False
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise BadResponse("a chunk of its body has no size")
        self._spend(len(line) - len(found[1]))
        self._left = int(found[1], 16)
        if self._left > self._limit - self._size:
            raise ResponseTooLarge
        self._step = ResponseReader._chunk_data if self._left else ResponseReader._trailer
        return True

    def _chunk_data(self) -> bool:
        if not self._take():
            return False
        self._step = ResponseReader._chunk_end
        return True

    def _chunk_end(self) -> bool:
        """Read the line end behind a chunk."""
        if self._buffer[:2] != b"\r\n"[: len(self._buffer)]:
            raise BadResponse("a chunk of its body is longer than its size")
        if len(self._buffer) < 2:
            return False
        self._buffer = self._buffer[2:]
        self._step = ResponseReader._chunk
        return True

    def _trailer(self) -> bool:
        """Skip the lines behind the last chunk."""
        line = self._line()
        if line is None:
            return False
        if line:
            _field(line)
            self._spend(len(line))
            return True
        self._finish()
        return False

    def _line(self) -> bytes | None:
        """Return the next line without its end; None if it is incomplete."""
        end = self._buffer.find(b"\n", self._looked)
        if end < 0:
            self._wait(0)
            return None
        if self._buffer[end - 1 : end] != b"\r":
            raise BadResponse("a line of its body ends without CR")
        line, self._buffer, self._looked = self._buffer[: end - 1], self._buffer[end + 1 :], 0
        return line

    def _take(self) -> bool:
        """Take what is there of the body, or of the chunk; whether that is all of it."""
        data = self._buffer
        if len(data) > self._left:
            data, self._buffer = data[: self._left], data[self._left :]
        else:
            self._buffer = b""
        self._left -= len(data)
        self._keep(data)
        return not self._left

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise ResponseTooLarge
        if isinstance(self._body, bytearray):
            self._body += data
        elif self._body:
            self._body = bytearray(self._body + data)
        else:
            self._body = data

    def _wait(self, again: int) -> None:
        """Remember how far the head or line was searched; its last bytes may begin an end."""
        if self._overhead + len(self._buffer) > _MOST_OVERHEAD:
            raise BadResponse("its head is too large")
        self._looked = max(0, len(self._buffer) - again)

    def _spend(self, size: int) -> None:
        self._overhead += size
        if self._overhead > _MOST_OVERHEAD:
            raise BadResponse("its heads, or what its chunks bear beside data, are too large")

    def _finish(self) -> None:
        self.response = Response(self._code, self._headers, bytes(self._body))
