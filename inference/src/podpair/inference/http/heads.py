"""The head of an HTTP/1.1 request: what it says, read once however often the same bytes come.

llhttp (through httptools) judges every head that wasn't seen before, so framing is decided by a parser that is attacked and
mended in the open. A client that keeps its connection mostly sends the same head again: then a look-up is all.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import httptools

from podpair.inference.http.compressing import wanted

MAX_HEAD_BYTES = 16_384
# Heads that are remembered, none longer than this.
_REMEMBERED, _SHORT = 512, 2048

CHUNKED = -1
# No size has so many digits; Python refuses to read numbers of thousands.
_DIGITS = 19
# A name or an IPv4 address (reg-name), or an IP literal in brackets, and a port (RFC 9112, 3.2; RFC 3986, 3.2.2 and 3.2.3);
# nothing where the target has no host.
_HOST = re.compile(r"(\[[0-9A-Fa-fvV:.%\w~!$&'()*+,;=-]+\]|([\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:\d*)?", re.ASCII)


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

    def __init__(self, method: str, path: str, headers: Mapping[str, str], keep_alive: bool, old: bool) -> None:
        self.method = method
        # Without the query, its escapes not yet decoded.
        self.path = path
        # Names in lower case; the values of a name that comes twice with commas between.
        self.headers = headers
        # Whether the client may go on after the answer.
        self.keep_alive = keep_alive
        # HTTP/1.0, which knows no chunks.
        self.old = old
        # Bytes of the body, or CHUNKED.
        chunked = "transfer-encoding" in headers
        self.length = CHUNKED if chunked else int(headers.get("content-length", 0))
        # Whether the client waits for "100 Continue".
        self.expects = headers.get("expect", "").lower() == "100-continue" and not old
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


class ChunkedBody:
    """The body behind a head that says `Transfer-Encoding: chunked`."""

    def __init__(self, head: bytes) -> None:
        self.content = bytearray()
        self.complete = False
        # Whether another request lies behind it: it isn't looked at, the connection ends after the answer.
        self.followed = False
        self._parser = httptools.HttpRequestParser(self)
        self.feed(head)

    def feed(self, data: bytes) -> None:
        """More bytes. Raises HeadError where they are no chunks."""
        self.followed = self.followed or (self.complete and bool(data))
        if self.complete:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise HeadError(400, f"the body isn't chunked as it should be: {error}") from None
            self.followed = True

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self.content += data

    def on_message_begin(self) -> None:
        self.followed = self.complete

    def on_message_complete(self) -> None:
        self.complete = True


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
        text = value.decode("latin-1")
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
        raise HeadError(400, f"the request isn't HTTP/1.1: {error}") from None
    # Where the parser found the end elsewhere than we did, two readers would see two different requests.
    if not events.complete or events.messages != 1 or events.overrun:
        raise HeadError(400, "the request's head doesn't end where it should")
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise HeadError(505, f"HTTP/{version} is not spoken here, HTTP/1.1 is")
    headers = events.headers
    expectation = headers.get("expect", "100-continue").lower()
    if expectation != "100-continue":
        raise HeadError(417, f"Expect: {expectation} can't be met")
    coding = headers.get("transfer-encoding", "chunked").lower()
    if coding != "chunked" or ("transfer-encoding" in headers and (version == "1.0" or "upgrade" in headers)):
        raise HeadError(501, f"Transfer-Encoding: {coding} is not served")
    if version == "1.1" and "host" not in headers:
        raise HeadError(400, "the Host header is missing")
    if events.hosts > 1:
        raise HeadError(400, "the Host header is there more than once")
    if not _HOST.fullmatch(headers.get("host", "")):
        raise HeadError(400, "the Host header is no host, or host:port")
    if number_of_bytes(headers.get("content-length", "0")) is None:
        raise HeadError(400, "the Content-Length header is no number of bytes")
    method: Any = parser.get_method()
    return Head(method.decode(), _path(events.url), headers, parser.should_keep_alive(), version == "1.0")


def _path(url: bytes) -> str:
    """The path of a request's target; that of a proxy's has the whole address before it."""
    if not url.startswith(b"/") and url != b"*":
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            raise HeadError(400, "the request's target is no path") from None
    return url.partition(b"?")[0].partition(b"#")[0].decode("latin-1")


def number_of_bytes(text: str) -> int | None:
    """A number of bytes that there may be; None: it is no number, or one beyond all sizes."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else None


def decoded(segment: str) -> str:
    """A segment of a path without its escapes."""
    return unquote(segment) if "%" in segment else segment
