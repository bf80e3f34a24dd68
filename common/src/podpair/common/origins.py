"""Origins of web pages, compared as RFC 6454 has it (scheme, host, port, where a default port may be left out), not as texts."""

import re
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
# Whatever the pattern of `origins` in the CRD takes is one.
_FORM = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.I)


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
