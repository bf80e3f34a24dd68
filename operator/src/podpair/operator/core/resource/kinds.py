"""The scalars of the resource: durations, quantities, names, and references into Secrets."""

import math
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from podpair.operator.core.resource.rules import Section

PUBLIC_PORT = 8080
"""The gateway container's port for clients, to which the Service leads."""
OPERATIONS_PORT = 8083
"""Its port for probes, metrics and operators, to which nothing leads."""
DURATION = r"^([1-9][0-9]*(ms|s|m|h))+$"
DURATION_OR_ZERO = r"^(0s|([1-9][0-9]*(ms|s|m|h))+)$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"
PERCENT = r"^[0-9]+%$"
_UNITS = {"": Decimal(1), "m": Decimal("0.001")}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)}
_UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Duration = Annotated[str, Field(pattern=DURATION, max_length=32)]
DurationOrZero = Annotated[str, Field(pattern=DURATION_OR_ZERO, max_length=32)]
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
    Field(pattern=QUANTITY, max_length=32),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": QUANTITY}
    ),
]


def _int_or_percent(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.match(PERCENT, value):
        return value
    raise PydanticCustomError(
        "int_or_percent", "{value} is not a number, or a share such as 50%", {"value": repr(value)}
    )


IntOrPercent = Annotated[
    int | str,
    PlainValidator(_int_or_percent),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": PERCENT}
    ),
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
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)(ms|s|m|h)", duration))


def whole_seconds(duration: str) -> int:
    """A duration in seconds, rounded up, as Kubernetes counts most of its times."""
    return math.ceil(seconds(duration))


def amount(quantity: str) -> int:
    """A quantity as a number, rounded down: `1Mi` is 1048576."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", quantity).groups()  # type: ignore[union-attr]
    return int(Decimal(number) * _UNITS[unit])


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
