"""Sections of the resource, and the rules between their fields.

A rule is written once: its CEL expression goes into the CRD, where the API server applies it, and its predicate is what
`podpair validate` and the operator apply. Both give the same message. tests/cluster checks that their verdicts agree.
"""

import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, NamedTuple, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_PLACE = re.compile(r"\{([A-Za-z0-9.]+)\}")
_SHOWN = re.compile(r" \(\{[A-Za-z0-9.]+\}\)")
BROKEN_RULES = "broken_rules"  # the type of the one error that lists all broken rules of a section


class Rule(NamedTuple):
    """One condition on a section. `message` may name values as {scaling.min}, by their names in YAML."""

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None  # None: it compares with the stored resource, so only the API server can

    def validation(self) -> dict[str, str]:
        """Return the rule as the CRD states it (x-kubernetes-validations)."""
        stated = {"rule": self.cel, "message": _SHOWN.sub("", self.message)}
        if _PLACE.search(self.message):
            form = _PLACE.sub("%s", self.message.replace("%", "%%").replace("\\", "\\\\").replace("'", "\\'"))
            # Not `+` between strings: the API server can't bound the cost of that, and refuses it.
            stated["messageExpression"] = (
                f"'{form}'.format([{', '.join(f'self.{p}' for p in _PLACE.findall(self.message))}])"
            )
        return stated

    def render(self, section: BaseModel) -> str:
        """Return the message with the section's own values."""
        values = section.model_dump(mode="json", by_alias=True)

        def value(place: re.Match[str]) -> str:
            found: Any = values
            for name in place[1].split("."):
                found = found[name]
            return str(found)

        return _PLACE.sub(value, self.message)


class Section(BaseModel):
    """A mapping in the resource: camelCase in YAML, nothing unknown, its docstrings are the CRD's descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, alias_generator=to_camel)
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, values: Any) -> Any:
        """Drop nulls: the API server reads a null as a missing field, whose default applies."""
        if not isinstance(values, Mapping):
            return values
        known = {field.alias for field in cls.model_fields.values()}
        return {name: value for name, value in values.items() if value is not None or name not in known}

    @field_validator("*", mode="before")
    @classmethod
    def _keep_json_types(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse conversions, as the API server does: "5" is no number, and 1 isn't true."""
        wanted = _scalars(cls.model_fields[str(info.field_name)].annotation)
        if wanted == {bool} and not isinstance(value, bool):
            raise PydanticCustomError("bool_type", "Input should be a valid boolean")
        if wanted in ({int}, {float}) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise PydanticCustomError("int_type" if wanted == {int} else "float_type", "Input should be a valid number")
        return value

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        broken = [rule.render(self) for rule in self.RULES if rule.holds is not None and not rule.holds(self)]
        if broken:
            raise PydanticCustomError(BROKEN_RULES, "{summary}", {"summary": "; ".join(broken), "broken": broken})
        return self


def _scalars(annotation: Any) -> set[type]:
    """Return the types of value that a field takes, if it is no list or mapping."""
    if isinstance(annotation, type):
        return {annotation} - {type(None)}
    if isinstance(annotation, UnionType) or get_origin(annotation) in (Annotated, Union):
        return {kind for part in get_args(annotation) for kind in _scalars(part)}
    return set()


class Distinct:
    """Marks a list without duplicates."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._distinct, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "x-kubernetes-list-type": "set"}

    def _distinct(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = next((item for at, item in enumerate(items) if item in items[:at]), None)
        if twice is not None:
            raise PydanticCustomError("twice", "{value} is there twice", {"value": repr(twice)})
        return items


class KeyedBy:
    """Marks a list whose items differ in `key`, as env and volumes do: server-side apply merges it item by item."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._unique, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            **handler(schema),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [self._key],
        }

    def _unique(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        keys = [getattr(item, self._key) for item in items]
        twice = next((key for at, key in enumerate(keys) if key in keys[:at]), None)
        if twice is not None:
            raise PydanticCustomError("twice", "{key} {value} is there twice", {"key": self._key, "value": repr(twice)})
        return items
