"""Which pages may connect: browsers send Origin with every upgrade, and nothing else keeps foreign pages out."""

from collections.abc import Collection
from urllib.parse import urlsplit


def origin_allowed(origin: str | None, host: str, allowed: Collection[str]) -> bool:
    """Whether a request with this Origin and Host may go on. No Origin: not a browser, its token decides alone."""
    if origin is None or "*" in allowed:
        return True
    if origin.lower() in allowed:
        return True
    try:
        own = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return own != "" and own == host.lower()
