"""Texts with places for members of an event: `{{data.outputs.0.data}}`; what isn't a text stands there as JSON.

Invariant: what is made of a template is as long as is shown of it, and no longer: all that an event says, once for each place,
could be many times the event.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

_PLACE = re.compile(r"\{\{\s*([A-Za-z0-9_.-]{1,200})\s*\}\}")


class InvalidTemplate(ValueError):
    """What is wrong with a template."""


def event_fields(body: bytes) -> dict[str, Any]:
    """Return what a template can name: the members of an event, and as `content` what is most worth reading of it.

    Raises msgspec.MsgspecError.
    """
    event = msgspec.json.decode(body, type=dict[str, Any])
    return event | {"content": _content(event.get("data", {}))}


def _content(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    for name in ("data", "outputs", "message", "data_base64"):
        if data.get(name) is not None:
            return data[name]
    return ""


def fill(template: str, event: Any, most: int, escape: Callable[[str], str]) -> str:
    """Put members of the event in their places, escaped; what is beyond `most` characters may be missing."""
    parts: list[str] = []
    size = begun = 0
    for place in _PLACE.finditer(template):
        parts += (template[begun : place.start()], escape(as_text(_member(event, place[1]))[: most + 1]))
        size += len(parts[-2]) + len(parts[-1])
        begun = place.end()
        if size > most:
            return "".join(parts)
    return "".join(parts) + template[begun:]


def _member(event: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(event, dict):
            event = event.get(name)
        elif isinstance(event, list) and name.isdigit() and int(name) < len(event):
            event = event[int(name)]
        else:
            return ""
    return "" if event is None else event


def as_text(value: Any) -> str:
    """Return a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
