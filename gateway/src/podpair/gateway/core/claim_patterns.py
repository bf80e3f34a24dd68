"""Patterns of names that hold claims of a token: `user.{sub}.*` (`channels.rules`, `presence.rules`).

Invariant: a claim's value stands for itself alone, whatever characters it has; a pattern with a claim that the token has not, or
that is no text, fits nothing.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any

_CLAIM = re.compile(r"\{([^{}]{1,100})\}")


def compile_patterns(patterns: Iterable[str], claims: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Compile patterns as of file names, in which `{claim}` stands for the token's claim. None: no name fits."""
    found = [one for pattern in patterns if (one := _expression(pattern, claims)) is not None]
    return re.compile("|".join(found)) if found else None


def _expression(pattern: str, claims: Mapping[str, Any]) -> str | None:
    parts: list[str] = []
    end = 0
    for match in _CLAIM.finditer(pattern):
        value = claims.get(match[1])
        if not isinstance(value, str) or not value:
            return None
        parts += (_glob(pattern[end : match.start()]), re.escape(value))
        end = match.end()
    return "".join(("(?s:", *parts, _glob(pattern[end:]), r")\Z"))


def _glob(pattern: str) -> str:
    """Return the expression of a part of a pattern, without the anchor that `translate` adds."""
    return translate(pattern).removesuffix(r"\Z").removesuffix(r"\z")
