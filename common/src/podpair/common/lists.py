"""Lists and mappings that are written as one text, as an environment variable has them: JSON, or a list with commas.

Invariant: a text that begins as JSON does is JSON or a fault, and never an entry of a list; no fault repeats the text, which may
hold a secret.
"""

import json
from typing import Annotated, Any

from pydantic import BeforeValidator


def decode(text: str) -> Any:
    """Parse a text that begins with `[` or `{` as JSON; return any other text unchanged. Raises ValueError."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it begins as JSON does, but is none: {error}") from None
    except RecursionError:
        raise ValueError("it is JSON that is nested too deep") from None


def list_of(value: object) -> object:
    """Return the list that a text holds, as JSON or with commas between its entries; return a list unchanged. Raises
    ValueError.
    """
    found = decode(value) if isinstance(value, str) else value
    if isinstance(found, str):
        return [part.strip() for part in found.split(",") if part.strip()]
    if not isinstance(found, list | tuple):
        raise ValueError('a list is needed: ["a", "b"], or a,b')
    return found


def joined(value: object) -> object:
    """Join a list of texts with commas, for a setting that is such a text; return anything else unchanged."""
    if isinstance(value, str) and value.lstrip().startswith('["'):
        value = decode(value)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return value


Listed = BeforeValidator(list_of)
"""Marks a setting that is a list."""
Texts = Annotated[tuple[str, ...], Listed]
Joined = Annotated[str, BeforeValidator(joined)]
"""A text with commas, which may be written as a list."""
