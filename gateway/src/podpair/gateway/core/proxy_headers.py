"""Headers that are forwarded to the model's server, and those of its answer to the client: all but the ones named here.

Invariant: no credential of a client reaches the model's server (its token, its resume token, its cookies), nothing that is about
one of the two connections reaches the other (RFC 9110, 7.6.1), and no answer of the model's speaks for the gateway's origin.
"""

import math
import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

from podpair.gateway.core.retry_after import parse_retry_after

Fields = Iterable[tuple[str, str]]

_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings",
    }
)  # fmt: skip
# Content-Encoding: the body is decoded when it is passed on. Origin is judged by the gateway, and its address may have a token in
# it, as that of a page has (Referer) and the id of an event. What tells of proxies would be believed, for the gateway is on
# the model's own host.
_NOT_TO_MODEL = _HOP_BY_HOP | {
    "authorization", "proxy-authorization", "cookie", "cookie2", "referer", "origin", "last-event-id",
    "host", "content-length", "content-encoding", "expect", "forwarded", "x-real-ip", "podpair-priority",
}  # fmt: skip
_NOT_TO_MODEL_PREFIXES = ("sec-websocket-", "x-forwarded-", "access-control-")
# What sets a cookie, a policy or a password dialog for all of the gateway's origin, or names an address behind it.
_NOT_TO_CLIENT = _HOP_BY_HOP | {
    "set-cookie", "set-cookie2", "content-length", "date", "server", "via", "location", "content-location", "refresh",
    "www-authenticate", "proxy-authenticate", "authentication-info", "proxy-authentication-info", "alt-svc",
    "strict-transport-security", "public-key-pins", "expect-ct", "clear-site-data", "service-worker-allowed",
    "nel", "report-to", "reporting-endpoints", "retry-after", "retry-after-ms", "podpair-inference-ms",
}  # fmt: skip
_NOT_TO_CLIENT_PREFIXES = ("sec-websocket-", "access-control-")
_OURS = frozenset({"token", "resume", "position"})
_TARGET = re.compile(r"/[\x21-\x7e]*")
_DOTS = frozenset({".", ".."})
_LONGEST_WAIT = 30_000  # milliseconds that a server may ask a client to wait


def proxy_target(path: str, query: str) -> str | None:
    """Build the request target, still encoded, from a path (which may have a query of its own) and a query.

    None: it can't be passed on. A dot segment can't (RFC 3986, 5.2.4), even one that is encoded: to a server that decodes before
    it routes it is another path than the one that the token's rules were asked about.
    """
    if not _DOTS.isdisjoint(re.split(r"[/\\]", unquote(path.partition("?")[0]))):
        return None
    kept = "&".join(
        part
        for part in query.split("&")
        if unquote_plus(part.partition("=")[0], errors="replace").strip().lower() not in _OURS
    )
    target = f"{path}{'&' if '?' in path else '?'}{kept}" if kept else path
    return target if _TARGET.fullmatch(target) else None


def model_headers(headers: Fields) -> list[tuple[str, str]]:
    """Return the headers of a request that are forwarded to the model's server, in their order."""
    return _passed(headers, _NOT_TO_MODEL, _NOT_TO_MODEL_PREFIXES)


def client_headers(headers: Fields, *, streamed: bool = False) -> list[tuple[str, str]]:
    """Return the headers of the model's answer that are forwarded to the client. streamed: it comes in chunks, which no proxy
    may hold back.
    """
    headers = list(headers)
    passed = _passed(headers, _NOT_TO_CLIENT, _NOT_TO_CLIENT_PREFIXES)
    said = {name.lower(): value for name, value in headers}
    if (wait := said.get("retry-after")) is not None:
        seconds = parse_retry_after(wait)
        passed.append(("Retry-After", "1" if seconds is None else str(math.ceil(seconds))))
    if (milliseconds := _number(said.get("retry-after-ms"))) is not None:
        passed.append(("retry-after-ms", f"{min(float(milliseconds), _LONGEST_WAIT):.10g}"))
    if (spent := _number(said.get("podpair-inference-ms"))) is not None:
        passed.append(("podpair-inference-ms", spent))
    return _unheld(passed) if streamed else passed


def _passed(headers: Fields, kept_back: frozenset[str], prefixes: tuple[str, ...]) -> list[tuple[str, str]]:
    headers = list(headers)
    named = {
        option.strip().lower() for name, value in headers if name.lower() == "connection" for option in value.split(",")
    }
    return [
        (name, value)
        for name, value in headers
        if (lower := name.lower()) not in kept_back
        and lower not in named
        and not lower.startswith(prefixes)
        and _is_sound(value)
    ]


def _unheld(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Add headers that keep proxies from holding back small chunks: some compress, some buffer unless they are asked not to."""
    present = {name.lower() for name, _ in headers}
    if "cache-control" not in present:
        headers.append(("Cache-Control", "no-store, no-transform"))
    elif not any("no-transform" in value.lower() for name, value in headers if name.lower() == "cache-control"):
        headers.append(("Cache-Control", "no-transform"))
    if "x-accel-buffering" not in present:
        headers.append(("X-Accel-Buffering", "no"))
    return headers


def _is_sound(value: str) -> bool:
    """Return whether the value was text in UTF-8 and has no control characters."""
    if value.isascii():
        return value.isprintable() or value.replace("\t", " ").isprintable()
    return not any(
        "\ud800" <= letter <= "\udfff" or (letter < " " and letter != "\t") or letter == "\x7f" for letter in value
    )


def _number(text: str | None) -> str | None:
    return text if text is not None and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) is not None else None


def decode_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Decode headers that came as bytes."""
    return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in headers]
