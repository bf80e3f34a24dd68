"""Turns pydantic's errors into sentences: where, what, and what to do, one line each, all at once."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from podpair.common.field_names import closest, names_at

# How pydantic says that the key of a mapping is at fault, rather than its value.
_KEY = "[key]"


def sentences(
    error: ValidationError, model: type[BaseModel], source: str | Callable[[tuple[Any, ...]], str]
) -> list[str]:
    """Return one line for each fault of `error`, which was raised when `model` was validated.

    source: what the values came from (a file), or what names it for the location of a fault.
    """
    faults = error.errors(include_url=False)
    return [
        f"{source if isinstance(source, str) else source(fault['loc'])}: {_sentence(fault, model)}" for fault in faults
    ]


def _sentence(fault: Mapping[str, Any], model: type[BaseModel]) -> str:
    location = tuple(fault["loc"])
    parts = [str(part) for part in location if part != _KEY and not _is_tag(part, fault)]
    field = ".".join(parts) or "(the whole file)"
    if fault["type"] == "extra_forbidden":
        known = sorted(names_at(model, location[:-1]))
        meant = closest(str(location[-1]), known)
        hint = f"did you mean {meant}?" if meant else f"there are: {', '.join(known)}"
        return f"{field}: no such setting; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], dict) else f" (it is {fault['input']!r})"
    return f"{field}: {message[:1].lower()}{message[1:]}{shown}"


def _is_tag(part: Any, fault: Mapping[str, Any]) -> bool:
    """Return whether a part of the location is a union's tag, which the file doesn't contain."""
    return isinstance(part, str) and isinstance(fault.get("input"), dict) and fault["input"].get("op") == part
