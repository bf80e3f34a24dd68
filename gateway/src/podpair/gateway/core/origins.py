"""Decides which pages may connect: browsers send Origin with every upgrade, and nothing else keeps foreign pages out."""

import dataclasses
from collections.abc import Collection

from podpair.common.origins import canonical_origin


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """How a client reached this gateway, as far as that is known."""

    host: str  # as in the header Host, with the port if that isn't the scheme's default
    scheme: str | None = None  # `http` or `https`; None: whoever ends TLS before the gateway, if anyone, has not said
    client: str | None = None  # its address


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
