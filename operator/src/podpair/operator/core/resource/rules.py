"""Sections of the resource, and the rules that their fields keep together.

A rule is written once: its CEL expression goes into the CRD, where the API server applies it, and its predicate is what
`podpair validate` and the operator apply. Both tell the same message. tests/cluster holds the two to the same verdicts.
"""

import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_PLACE = re.compile(r"\{([A-Za-z.]+)\}")
_SHOWN = re.compile(r" \(\{[A-Za-z.]+\}\)")
BROKEN_RULES = "broken_rules"  # the type of the one error that tells all broken rules of a section


class Rule(NamedTuple):
    """One condition on a section. `message` may name values as {scaling.min}, by their names in YAML."""

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None  # None: it compares with the stored resource, so only the API server can

    def validation(self) -> dict[str, str]:
        """The rule as the CRD states it (x-kubernetes-validations)."""
        stated = {"rule": self.cel, "message": _SHOWN.sub("", self.message)}
        if _PLACE.search(self.message):
            form = _PLACE.sub("%s", self.message.replace("%", "%%").replace("\\", "\\\\").replace("'", "\\'"))
            # Not `+` between strings: the API server can't bound the cost of that, and refuses it.
            stated["messageExpression"] = (
                f"'{form}'.format([{', '.join(f'self.{p}' for p in _PLACE.findall(self.message))}])"
            )
        return stated

    def told(self, section: BaseModel) -> str:
        """The message with the section's own values."""
        values = section.model_dump(mode="json", by_alias=True)

        def value(place: re.Match[str]) -> str:
            found: Any = values
            for name in place[1].split("."):
                found = found[name]
            return str(found)

        return _PLACE.sub(value, self.message)


class Section(BaseModel):
    """A mapping in the resource: camelCase in YAML, nothing unknown, its docstrings are the CRD's descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, alias_generator=to_camel, populate_by_name=True
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        broken = [rule.told(self) for rule in self.RULES if rule.holds is not None and not rule.holds(self)]
        if broken:
            raise PydanticCustomError(BROKEN_RULES, "{summary}", {"summary": "; ".join(broken), "broken": broken})
        return self


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
