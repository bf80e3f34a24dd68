"""What is wrong with a request's header fields (RFC 9113, 8.2 and 8.3): it ends the request, not its connection."""

from collections.abc import Sequence

_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_NEEDED = (b":method", b":scheme", b":path")
# Fields of a connection of HTTP/1.1.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))


def is_request(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return whether these begin a request; else they are trailers."""
    return bool(fields) and fields[0][0].startswith(b":")


def why_malformed(fields: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return what is wrong with the fields of a request, or with its trailers; None if nothing is."""
    pseudo: dict[bytes, bytes] = {}
    ordinary = False
    for name, value in fields:
        if name.startswith(b":"):
            if ordinary or name not in _PSEUDO or name in pseudo:
                return f"the pseudo-header field {name.decode('latin-1')} is unknown, repeated or late"
            pseudo[name] = value
            continue
        ordinary = True
        if not name or name != name.lower():
            return "the name of a field is empty, or not in lower case"
        if name in _HOP_BY_HOP or (name == b"te" and value != b"trailers"):
            return f"the field {name.decode('latin-1')} belongs to HTTP/1.1"
    if pseudo and not all(pseudo.get(name) for name in _NEEDED):
        return "a pseudo-header field is missing"
    return None
