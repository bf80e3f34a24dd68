"""The head of an HTTP/1.1 request, parsed once however often the same bytes come.

llhttp (through httptools) parses every head that wasn't seen before, so framing is decided by a parser that is attacked and
fixed in the open. A client that keeps its connection mostly sends the same head again: then one look-up is enough. Upper layers
keep what they find out about a head beside it (`HeadCache`), never in it.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import httptools

from podpair.inference.http1.request_target import is_host, path_of

Value = TypeVar("Value")

MAX_HEAD_BYTES = 16_384
# The codings that answers may be compressed with.
CODINGS = ("gzip", "deflate")
# How many heads are remembered, and their longest, in bytes.
_REMEMBERED, _SHORT = 512, 2048

CHUNKED = -1
# No size has so many digits; Python refuses to parse numbers with thousands of digits.
_DIGITS = 19
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/(\d\.\d)\r\n")
_NO_VERSION = re.compile(rb"GET /[!-~]*\r\n")
# Bytes that no request line contains.
_NO_TEXT = re.compile(rb"[^ -~\r]")
_VERSIONS = (b"1.1", b"1.0")


class HeadError(Exception):
    """A head that can't be served, with an HTTP status; what follows it can't be parsed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestHead:
    """What a request says before its body."""

    __slots__ = (
        "content_coding",
        "expects_continue",
        "headers",
        "is_http10",
        "keep_alive",
        "length",
        "method",
        "path",
        "reusable",
    )

    def __init__(self, method: str, path: str, headers: Mapping[str, str], is_http10: bool, expects: bool) -> None:
        self.method = method
        # Without the query, its escapes not yet decoded.
        self.path = path
        # Names in lower case; the values of a repeated name joined by commas.
        self.headers = headers
        # HTTP/1.0 has no chunks.
        self.is_http10 = is_http10
        # Whether the client may go on after the answer (RFC 9112, 9.3).
        options = list_members(headers["connection"]) if "connection" in headers else ()
        self.keep_alive = "close" not in options and (not is_http10 or "keep-alive" in options)
        # Bytes of the body, or CHUNKED.
        chunked = "transfer-encoding" in headers
        self.length = CHUNKED if chunked else int(headers.get("content-length", 0))
        # Whether the client waits for "100 Continue".
        self.expects_continue = expects and not is_http10
        # The coding in which the client wants its answer.
        self.content_coding = _requested_coding(headers.get("accept-encoding"))
        # Whether the parser returns this object again for the same bytes.
        self.reusable = False


class HeadParser:
    """Parses heads, and remembers some."""

    def __init__(self) -> None:
        self._known: dict[bytes, RequestHead] = {}

    def parse(self, data: bytes) -> RequestHead:
        """Return the head in `data`, which ends with its empty line. Raises HeadError."""
        head = self._known.get(data)
        if head is None:
            head = _parse(data)
            if len(data) <= _SHORT:
                head.reusable = True
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[data] = head
        return head


class HeadCache(dict[RequestHead, Value]):
    """What upper layers have found out about heads that come again, by the head itself; bounded as the parser's memory is."""

    def store(self, head: RequestHead, value: Value) -> Value:
        """Remember `value` if the head may come again; return it."""
        if head.reusable:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[head] = value
        return value


class PartialHead:
    """An incomplete head: one that can't become valid any more is refused at once, not when it is complete."""

    def __init__(self) -> None:
        self._fed = 0
        self._ended = False
        self._error: Exception | None = None
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Check all that has been received of it so far. Raises HeadError."""
        try:
            if self._error is None:
                self._parser.feed_data(data[self._fed :])
        except httptools.HttpParserError as error:
            self._error = error
        self._fed = len(data)
        # A fault in the first line is reported once the line is complete: the same one, in whatever pieces it comes.
        if self._error is not None and (b"\n" in data or _NO_TEXT.search(data)):
            raise _refusal(data, self._error)
        if self._ended:
            raise _misplaced_end()

    def on_headers_complete(self) -> None:
        """Note that the parser has found an end where there is none (called by the parser)."""
        self._ended = True


class _Events:
    """Collects the parser's events for one head."""

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


def _parse(data: bytes) -> RequestHead:
    events = _Events()
    parser = httptools.HttpRequestParser(events)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        # No other protocol is served, which is the server's choice; the request is answered as it is.
        events.overrun = upgrade.args[0] != len(data)
    except httptools.HttpParserError as error:
        raise _refusal(data, error) from None
    line = _REQUEST_LINE.match(data)
    if line is None or line[1] not in _VERSIONS:
        raise _refusal(data, None)
    # If the parser found the end elsewhere than we did, two readers would see two different requests.
    if not events.complete or events.messages != 1 or events.overrun:
        raise _misplaced_end()
    method = parser.get_method().decode()
    if method == "CONNECT":
        raise HeadError(501, "CONNECT is not served: this is no proxy")
    headers, is_http10 = events.headers, line[1] == b"1.0"
    expects = _expects_continue(headers.get("expect", ""))
    _check_framing(headers, is_http10)
    if not is_http10 and "host" not in headers:
        raise HeadError(400, "the Host header is missing")
    if events.hosts > 1:
        raise HeadError(400, "the Host header is repeated")
    if not is_host(headers.get("host", "")):
        raise HeadError(400, "the Host header is no host, or host:port")
    try:
        path = path_of(method, events.url)
    except ValueError as error:
        raise HeadError(400, str(error)) from None
    return RequestHead(method, path, headers, is_http10, expects)


def _misplaced_end() -> HeadError:
    return HeadError(400, "the request's head doesn't end where it should")


def _refusal(data: bytes, error: Exception | None) -> HeadError:
    """Return why a head isn't served: its version, its method, or llhttp's error (llhttp accepts more than HTTP/1)."""
    line = _REQUEST_LINE.match(data)
    version = b"0.9" if _NO_VERSION.match(data) else line and line[1]
    if version is not None and version not in _VERSIONS:
        return HeadError(505, f"HTTP/{version.decode()} is not supported, HTTP/1.1 is")
    if line is not None and isinstance(error, httptools.HttpParserInvalidMethodError):
        return HeadError(501, "the method is unknown")
    return HeadError(400, f"the request isn't HTTP/1.1: {error or 'its first line is malformed'}")


def _expects_continue(expectation: str) -> bool:
    """Return whether the client waits for "100 Continue". Raises HeadError for any other expectation."""
    members = list_members(expectation)
    for member in members:
        if member != "100-continue":
            raise HeadError(417, f"Expect: {member} can't be met")
    return bool(members)


def _check_framing(headers: Mapping[str, str], is_http10: bool) -> None:
    """Raise HeadError unless the framing of the body is beyond doubt (RFC 9112, 6.1 to 6.3)."""
    coding = headers.get("transfer-encoding")
    if coding is not None:
        codings = list_members(coding)
        if is_http10 or "content-length" in headers or codings[-1:] != ["chunked"] or codings.count("chunked") > 1:
            raise HeadError(400, f"the length of the body isn't clear from Transfer-Encoding: {coding}")
        if len(codings) > 1:
            raise HeadError(501, f"Transfer-Encoding: {coding} is not served, chunked is")
    if parse_byte_count(headers.get("content-length", "0")) is None:
        raise HeadError(400, "the Content-Length header is no number of bytes")


def _requested_coding(accepted: str | None) -> str | None:
    """Return the coding that an Accept-Encoding asks for, which is so only if it names one coding alone."""
    name = (accepted or "").strip().lower()
    return name if name in CODINGS else None


def list_members(value: str) -> list[str]:
    """Return the members of a list in a header (RFC 9110, 5.6.1), in lower case."""
    return [member for part in value.split(",") if (member := part.strip(" \t").lower())]


def parse_byte_count(text: str) -> int | None:
    """Parse a number of bytes; None if it is no number, or larger than any size."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else None
