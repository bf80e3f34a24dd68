"""Decides which pages may connect: browsers send Origin with every upgrade, and nothing else keeps foreign pages out.

Origins are compared as RFC 6454 has it (scheme, host, port, where a default port may be left out), not as texts.
"""

import dataclasses
import re
from collections.abc import Collection
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
# Whatever the pattern of `origins` in the CRD takes is one.
_FORM = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.I)


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """How a client reached this gateway, as far as that is known."""

    host: str  # as in the header Host, with the port if that isn't the scheme's default
    scheme: str | None = None  # `http` or `https`; None: whoever ends TLS before the gateway, if anyone, has not said
    client: str | None = None  # its address


def is_origin(text: str) -> bool:
    """Return whether the text is `scheme://host[:port]`, as a configuration names it, with nothing behind. `*` and `null` are
    not.
    """
    return _FORM.fullmatch(text) is not None


def canonical_origin(text: str) -> str | None:
    """Return an origin in lower case and without its scheme's default port; None if it is not `scheme://host[:port]`."""
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        return None
    if not parts.scheme or not parts.hostname or "@" in parts.netloc or parts.netloc.endswith(":"):
        return None
    if parts.path or parts.query or parts.fragment or re.search(r"[\s?#]", text):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = "" if port is None or port == _PORTS.get(parts.scheme) else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


def origin_allowed(origin: str | None, reached: Reached, allowed: Collection[str]) -> bool:
    """Return whether a request with this Origin may go on: one of `allowed` (canonical; `*` is any), or the gateway's own.

    No Origin: not a browser, its token decides alone.
    """
    if origin is None or "*" in allowed:
        return True
    asked = canonical_origin(origin)
    return asked is not None and (asked in allowed or asked == _own(reached, asked))


def _own(reached: Reached, asked: str) -> str | None:
    """Return the origin of the gateway's own pages; if the scheme is unknown, it is taken to be the page's."""
    scheme = reached.scheme or asked.partition("://")[0]
    return canonical_origin(f"{scheme}://{reached.host}")
