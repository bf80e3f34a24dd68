"""Ids of sessions that tokens name, bound to their users; and the keys by which users themselves are addressed.

A session that a gateway mints has an unguessable id (`core/partitions.py`). One that a token names is `<subject>/<session>`:
its records are keyed by both, so that no two users can ever share one, whichever gateways they come to. A minted id has no
slash, so that neither kind can pass for the other. A user's key, `user:<subject>`, has no slash and is not minted.
"""

import hashlib
from urllib.parse import quote

LONGEST = 256  # bytes of an id in which the subject stands as it is
USER = b"user:"
"""What the key of a user begins with."""


def claimed_session_id(subject: str, session: str) -> str:
    """Return the id of the session that a token of `subject` names `session`.

    Both parts are percent-encoded (RFC 3986, 2.1) outside A-Z a-z 0-9 . _ : @ -; if the id would be longer than 256 bytes
    the subject gives way to `~` and its SHA-256 in hex, which no encoded subject begins with. Raises UnicodeEncodeError.
    """
    name = _encoded(session)
    found = f"{_encoded(subject)}/{name}"
    return found if len(found) <= LONGEST else f"~{hashlib.sha256(subject.encode()).hexdigest()}/{name}"


def user_key(subject: str) -> str:
    """Return the key of records for all sessions of a user (`results.users`); encoded, and kept short, as in a session's id.

    Raises UnicodeEncodeError.
    """
    found = f"{USER.decode()}{_encoded(subject)}"
    return found if len(found) <= LONGEST else f"{USER.decode()}~{hashlib.sha256(subject.encode()).hexdigest()}"


def _encoded(part: str) -> str:
    return quote(part, safe=":@").replace("~", "%7E")  # which `quote` always leaves alone
