"""Turns pydantic's errors into sentences: where, what, and what to do, one line each, all at once."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


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
    field = ".".join(str(part) for part in location if not _is_tag(part, fault)) or "(the whole file)"
    if fault["type"] == "extra_forbidden":
        known = sorted(_siblings(model, location))
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
        return f"{field}: no such setting; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], dict) else f" (it is {fault['input']!r})"
    return f"{field}: {message[:1].lower()}{message[1:]}{shown}"


def _is_tag(part: Any, fault: Mapping[str, Any]) -> bool:
    """Return whether a part of the location is a union's tag, which the file doesn't contain."""
    return isinstance(part, str) and isinstance(fault.get("input"), dict) and fault["input"].get("op") == part


def _siblings(model: type[BaseModel], location: tuple[Any, ...]) -> Iterator[str]:
    """Yield the names that are valid instead of the unknown one."""
    models = [model]
    for part in location[:-1]:
        found = [field for m in models for name, field in m.model_fields.items() if name == part]
        models = [m for field in found for m in _models_in(field.annotation)] or models
    for m in models:
        yield from (field.alias or name for name, field in m.model_fields.items())


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
