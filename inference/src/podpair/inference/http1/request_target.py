"""A request's target and its Host header: which forms they may have (RFC 9112, 3.2), and the path that a target names.

Nothing is guessed or repaired: a target that the RFCs don't allow is refused, so that no intermediary reads it differently.
One leniency: visible ASCII that a URI would escape (`|`, `[`) stands for itself, as browsers send it.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import unquote, unquote_to_bytes

# A name or an IPv4 address (reg-name), or an IP literal in brackets, and a port (RFC 3986, 3.2.2 and 3.2.3); nothing if the
# target has no host.
_HOST = re.compile(
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?|[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+)\]"
    r"|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::\d*)?",
    re.ASCII,
)
_ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_host(text: str) -> bool:
    """Return whether this is a valid Host header."""
    found = _HOST.fullmatch(text)
    if found is None:
        return False
    literal = found["literal"]
    if literal is None or literal[0] in "vV":
        return True
    try:
        IPv6Address(literal.partition("%")[0])  # behind it the zone (RFC 6874)
    except AddressValueError:
        return False
    return True


def path_of(method: str, target: bytes) -> str:
    """Return the path without the query, its escapes not yet decoded; `*` for a request to the server itself.

    Raises ValueError if it is no target, or not one for this method.
    """
    text = target.decode("latin-1")
    if not text.isascii():
        raise ValueError("there are characters in the request's target that have to be escaped")
    if "#" in text:
        raise ValueError("the request's target has a fragment, which is the client's own")
    if text == "*" and method == "OPTIONS":
        return text
    if not text.startswith("/"):
        text = _of_absolute(method, text)
    path = text.partition("?")[0]
    if "%" in path:
        _check_escapes(path)
    return path


def decoded(segment: str) -> str:
    """Decode the escapes of a path segment."""
    return unquote(segment) if "%" in segment else segment


def _of_absolute(method: str, text: str) -> str:
    """Return path and query of an absolute URL, as clients of a proxy send it; its host is ignored, as the Host header is."""
    found = _ABSOLUTE.fullmatch(text)
    if found is None:
        raise ValueError("the request's target is neither a path nor a whole address of http")
    authority, rest = found.groups()
    if authority[:1] in ("", ":") or not is_host(authority):
        raise ValueError("the request's target has no host, or what is none")
    if rest.startswith("/"):
        return rest
    return "*" if method == "OPTIONS" and not rest else f"/{rest}"


def _check_escapes(path: str) -> None:
    if _BROKEN_ESCAPE.search(path):
        raise ValueError("there is a % in the request's path without two hexadecimal digits behind it")
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise ValueError("the escapes in the request's path aren't UTF-8") from None
