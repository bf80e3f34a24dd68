"""The scalars of the resource: durations, quantities, names, and references into Secrets."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from podpair.operator.core.resource.rules import Section

_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Duration = Annotated[str, Field(pattern=_DURATION, max_length=32)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)]
Text = Annotated[str, Field(min_length=1, max_length=2048)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)]
Path = Annotated[str, Field(pattern=r"^/", max_length=1024)]


def _quantity(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_quantity),
    Field(pattern=_QUANTITY, max_length=32),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": _QUANTITY}
    ),
]
IntOrPercent = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
]
# Passed on as it is: the API server knows its schema, which would be large here.
Passed = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
OneOf = Annotated[
    dict[str, Any],
    Field(min_length=1, max_length=1),
    WithJsonSchema(
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "minProperties": 1, "maxProperties": 1}
    ),
]
Labels = Annotated[dict[str, Annotated[str, Field(max_length=262_144)]], Field(max_length=64)]


def seconds(duration: str) -> float:
    """A duration in seconds: `1m30s` is 90.0."""
    return sum(
        float(number) * _UNITS[unit] for number, _, unit in re.findall(r"([0-9]+(\.[0-9]+)?)(ms|s|m|h)", duration)
    )


class SecretKey(Section):
    """A key of a Secret in the same namespace."""

    name: ObjectName
    """The Secret."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
    """Its key."""


class SecretName(Section):
    """A Secret in the same namespace."""

    name: ObjectName
    """The Secret."""
