"""The head of an HTTP/1.1 request: what it says, read once however often the same bytes come.

llhttp (through httptools) judges every head that wasn't seen before, so framing is decided by a parser that is attacked and
mended in the open. A client that keeps its connection mostly sends the same head again: then a look-up is all.
"""

import re
from collections.abc import Mapping
from typing import Any

import httptools

from podpair.inference.http.compressing import wanted
from podpair.inference.http.request_target import is_host, path_of

MAX_HEAD_BYTES = 16_384
# Heads that are remembered, none longer than this.
_REMEMBERED, _SHORT = 512, 2048

CHUNKED = -1
# No size has so many digits; Python refuses to read numbers of thousands.
_DIGITS = 19
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/(\d\.\d)\r\n")
_NO_VERSION = re.compile(rb"GET /[!-~]*\r\n")
# What is in no request line.
_NO_TEXT = re.compile(rb"[^ -~\r]")
_VERSIONS = (b"1.1", b"1.0")


class HeadError(Exception):
    """A head that can't be served; `status` tells why, and nothing behind it can be understood."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """What a request says before its body."""

    __slots__ = (
        "asking",
        "coding",
        "expects",
        "headers",
        "keep_alive",
        "length",
        "method",
        "old",
        "path",
        "route",
        "values",
    )

    def __init__(self, method: str, path: str, headers: Mapping[str, str], old: bool, expects: bool) -> None:
        self.method = method
        # Without the query, its escapes not yet decoded.
        self.path = path
        # Names in lower case; the values of a name that comes twice with commas between.
        self.headers = headers
        # HTTP/1.0, which knows no chunks.
        self.old = old
        # Whether the client may go on after the answer (RFC 9112, 9.3).
        options = list_members(headers["connection"]) if "connection" in headers else ()
        self.keep_alive = "close" not in options and (not old or "keep-alive" in options)
        # Bytes of the body, or CHUNKED.
        chunked = "transfer-encoding" in headers
        self.length = CHUNKED if chunked else int(headers.get("content-length", 0))
        # Whether the client waits for "100 Continue".
        self.expects = expects and not old
        # How it wants its answer packed.
        self.coding = wanted(headers.get("accept-encoding"))
        # What routing has found, and what an inference is asked for with: kept here, because it is the same for the same head.
        self.route: Any = None
        self.values: Mapping[str, str] = {}
        self.asking: Any = None


class Heads:
    """Reads heads, and remembers some."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, data: bytes) -> Head:
        """The head in `data`, which ends with its empty line. Raises HeadError."""
        head = self._known.get(data)
        if head is None:
            head = _parse(data)
            if len(data) <= _SHORT:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[data] = head
        return head


class PartialHead:
    """A head of which more is to come: what can't become one any more is refused at once, not when it is complete."""

    def __init__(self) -> None:
        self._fed = 0
        self._ended = False
        self._error: Exception | None = None
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """All that has come of it so far. Raises HeadError."""
        try:
            if self._error is None:
                self._parser.feed_data(data[self._fed :])
        except httptools.HttpParserError as error:
            self._error = error
        self._fed = len(data)
        # What is wrong with a first line is told once it is there: the same, in whatever pieces it comes.
        if self._error is not None and (b"\n" in data or _NO_TEXT.search(data)):
            raise _refusal(data, self._error)
        if self._ended:
            raise _unended()

    def on_headers_complete(self) -> None:
        """Learn that the parser has found an end where there is none."""
        self._ended = True


class _Events:
    """What the parser tells of one head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.hosts = 0
        self.messages = 0
        self.complete = False
        self.overrun = False

    def on_message_begin(self) -> None:
        self.messages += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").rstrip(" \t")
        self.hosts += key == "host"
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_body(self, data: bytes) -> None:
        self.overrun = True


def _parse(data: bytes) -> Head:
    events = _Events()
    parser = httptools.HttpRequestParser(events)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        # Nothing here is upgraded to, which is the server's to decide; the request is answered as it is.
        events.overrun = upgrade.args[0] != len(data)
    except httptools.HttpParserError as error:
        raise _refusal(data, error) from None
    line = _REQUEST_LINE.match(data)
    if line is None or line[1] not in _VERSIONS:
        raise _refusal(data, None)
    # Where the parser found the end elsewhere than we did, two readers would see two different requests.
    if not events.complete or events.messages != 1 or events.overrun:
        raise _unended()
    method = parser.get_method().decode()
    if method == "CONNECT":
        raise HeadError(501, "CONNECT is not served: this is no proxy")
    headers, old = events.headers, line[1] == b"1.0"
    expects = _expects(headers.get("expect", ""))
    _check_framing(headers, old)
    if not old and "host" not in headers:
        raise HeadError(400, "the Host header is missing")
    if events.hosts > 1:
        raise HeadError(400, "the Host header is there more than once")
    if not is_host(headers.get("host", "")):
        raise HeadError(400, "the Host header is no host, or host:port")
    try:
        path = path_of(method, events.url)
    except ValueError as error:
        raise HeadError(400, str(error)) from None
    return Head(method, path, headers, old, expects)


def _unended() -> HeadError:
    return HeadError(400, "the request's head doesn't end where it should")


def _refusal(data: bytes, error: Exception | None) -> HeadError:
    """Why a head isn't served: for its version, its method, or for what llhttp says, which takes more than HTTP/1."""
    line = _REQUEST_LINE.match(data)
    version = b"0.9" if _NO_VERSION.match(data) else line and line[1]
    if version is not None and version not in _VERSIONS:
        return HeadError(505, f"HTTP/{version.decode()} is not spoken here, HTTP/1.1 is")
    if line is not None and isinstance(error, httptools.HttpParserInvalidMethodError):
        return HeadError(501, "the method is not known here")
    return HeadError(400, f"the request isn't HTTP/1.1: {error or 'its first line is none'}")


def _expects(expectation: str) -> bool:
    """Whether the client waits for "100 Continue". Raises HeadError for what else it may expect."""
    members = list_members(expectation)
    for member in members:
        if member != "100-continue":
            raise HeadError(417, f"Expect: {member} can't be met")
    return bool(members)


def _check_framing(headers: Mapping[str, str], old: bool) -> None:
    """How the body is framed has to be beyond doubt (RFC 9112, 6.1 to 6.3). Raises HeadError."""
    coding = headers.get("transfer-encoding")
    if coding is not None:
        codings = list_members(coding)
        if old or "content-length" in headers or codings[-1:] != ["chunked"] or codings.count("chunked") > 1:
            raise HeadError(400, f"how long the body is can't be told from Transfer-Encoding: {coding}")
        if len(codings) > 1:
            raise HeadError(501, f"Transfer-Encoding: {coding} is not served, chunked is")
    if number_of_bytes(headers.get("content-length", "0")) is None:
        raise HeadError(400, "the Content-Length header is no number of bytes")


def list_members(value: str) -> list[str]:
    """The members of a list in a header (RFC 9110, 5.6.1), in lower case."""
    return [member for part in value.split(",") if (member := part.strip(" \t").lower())]


def number_of_bytes(text: str) -> int | None:
    """A number of bytes that there may be; None: it is no number, or one beyond all sizes."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else None
