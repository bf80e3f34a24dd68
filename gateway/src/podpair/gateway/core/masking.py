"""Takes passwords out of texts that people are shown: a URL may hold one before its host or in its query."""

import re

MASK = "**********"
_WORDS = r"password|passwd|passphrase|secret|key|token|jaas|credential|pem"
_USER = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")
_QUERY = re.compile(rf"([?&][^=&#\s\"']*(?:{_WORDS}|auth|sig|pwd)[^=&#\s\"']*=)[^&#\s\"']+", re.I)
_NAME = re.compile(rf"{_WORDS}|oauthbearer\.config|assertion", re.I)


def masked(text: str) -> str:
    """The text without what URLs in it hold before their hosts, and without values in their queries whose names are secret."""
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\g<1>{MASK}", _USER.sub(f"{MASK}@", text))


def is_secret(name: str) -> bool:
    """Whether a property of this name holds a secret, and not the place of one."""
    return bool(_NAME.search(name)) and not name.endswith((".location", ".url", ".file"))
