"""Redacts passwords in texts that people see: a URL may hold one before its host or in its query."""

import re

MASK = "**********"
_WORDS = r"password|passwd|passphrase|secret|key|token|jaas|credential|pem"
_USER = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")
_QUERY = re.compile(rf"([?&][^=&#\s\"']*(?:{_WORDS}|auth|sig|pwd)[^=&#\s\"']*=)[^&#\s\"']+", re.I)
_NAME = re.compile(rf"{_WORDS}|oauthbearer\.config|assertion", re.I)


def redact(text: str) -> str:
    """Mask what URLs in the text hold before their hosts, and values in their queries whose names are secret."""
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\g<1>{MASK}", _USER.sub(f"{MASK}@", text))


def is_secret(name: str) -> bool:
    """Return whether a property of this name holds a secret, and not its location."""
    return bool(_NAME.search(name)) and not name.endswith((".location", ".url", ".file"))
