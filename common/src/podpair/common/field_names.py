"""The names that a model's fields have, for who wrote another: pydantic says only that it knows none of it."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel


def names_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the names that may stand at a location below `model`, as users write them."""
    models = [model]
    for part in location:
        found = [field for m in models for name, field in m.model_fields.items() if part in (name, field.alias)]
        # What is no field is an index, a key, or the tag of a union: the models stay the same.
        models = [below for field in found for below in _models_in(field.annotation)] or models
    return [field.alias or name for m in models for name, field in m.model_fields.items()]


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None: none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
