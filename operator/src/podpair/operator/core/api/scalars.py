"""The scalars of the resource: durations, quantities, names, and references into Secrets."""

import math
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError

from podpair.operator.core.api.rules import Rule, Section

PUBLIC_PORT = 8080
"""The gateway container's port for clients, to which the Service leads."""
OPERATIONS_PORT = 8083
"""Its port for probes, metrics and operators, to which nothing leads."""
DURATION = r"^([1-9][0-9]{0,4}h)?([1-9][0-9]{0,6}m)?([1-9][0-9]{0,8}s)?([1-9][0-9]{0,8}ms)?$"
"""Each unit once, the largest first, as Prometheus wants it too; less than 2³¹ s, Kubernetes' longest time."""
DURATION_OR_ZERO = DURATION.replace("^", "^(0s|").replace("$", ")$")
QUANTITY = r"^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)(n|u|m|k|Ki|[MGTPE]i?|[eE][+-]?[0-9]{1,2})?$"
"""As Kubernetes has it (k8s.io/apimachinery/pkg/api/resource), but for a minus: there is nothing here that may be negative."""
PERCENT = r"^(100|[0-9]{1,2})%$"
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}([.]{_LABEL})*"
NAME = rf"^{_LABEL}$"
OBJECT_NAME = rf"^{_SUBDOMAIN}$"
HOST = rf"^([*][.])?({_LABEL}[.])*[0-9]*[a-z]([-a-z0-9]*[a-z0-9])?$"
"""A DNS name, and no address: the last label isn't just a number."""
QUALIFIED_NAME = rf"^({_SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
"""What keys of labels and annotations are."""
LABEL_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_SERVER_LABEL = "[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?"
_IPV6 = r"\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*(%[A-Za-z0-9._-]+)?\]"
_SERVER_HOST = rf"({_SERVER_LABEL}([.]{_SERVER_LABEL})*[.]?|{_IPV6})"
SERVER_HOST = rf"^{_SERVER_HOST}$"
SERVERS = rf"^{_SERVER_HOST}:{_PORT}(,{_SERVER_HOST}:{_PORT})*$"
"""host:port, several with commas: what the gateway takes for `kafka.bootstrap_servers`, and a test holds them to it."""
_G = "[0-9a-fA-F]{1,4}"
IPV6_ADDRESS = (
    f"(({_G}:){{7}}{_G}|({_G}:){{1,7}}:|({_G}:){{1,6}}:{_G}|({_G}:){{1,5}}(:{_G}){{1,2}}|({_G}:){{1,4}}(:{_G}){{1,3}}"
    f"|({_G}:){{1,3}}(:{_G}){{1,4}}|({_G}:){{1,2}}(:{_G}){{1,5}}|{_G}:(:{_G}){{1,6}}|:((:{_G}){{1,7}}|:))"
)
_ORIGIN_HOST = rf"({_SERVER_LABEL}([.]{_SERVER_LABEL})*|\[{IPV6_ADDRESS}\])"
ORIGIN = rf"^([*]|[a-z][a-z0-9+.-]*://{_ORIGIN_HOST}(:{_PORT})?)$"
"""scheme://host[:port], as the gateway takes it for `http.origins`; or `*`."""
URL = rf"^https?://([^\s/?#@\[\]]*@)?{_SERVER_HOST}(:{_PORT})?([/?#][^\s]*)?$"
# No part of it is empty, `.` or `..`, and no slash is hidden: Ingresses and HTTPRoutes take no such path.
_PCHAR = "[-A-Za-z0-9_~!$&'()*+,;=:@]|%([013-9a-fA-F][0-9a-fA-F]|2[0-9a-eA-E])"
URL_PATH = rf"^/((({_PCHAR})|[.]({_PCHAR})|[.][.]([.]|{_PCHAR}))([.]|{_PCHAR})*(/|$))*$"
MOUNT_PATH = "^/[^:]*$"
IMAGE = r"^[^\s]+$"
KEY = "^[.]?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$"
_UNITS = {"": Decimal(1), "m": Decimal("1e-3"), "u": Decimal("1e-6"), "n": Decimal("1e-9")}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)}
_UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Duration = Annotated[str, Field(pattern=DURATION, min_length=2, max_length=32)]
DurationOrZero = Annotated[str, Field(pattern=DURATION_OR_ZERO, min_length=2, max_length=32)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(pattern=NAME, min_length=1, max_length=63)]
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME, min_length=1, max_length=253)]
Host = Annotated[str, Field(pattern=HOST, max_length=253)]
Text = Annotated[str, Field(min_length=1, max_length=2048)]
Image = Annotated[str, Field(pattern=IMAGE, max_length=2048)]
Url = Annotated[str, Field(pattern=URL, max_length=2048)]
UrlPath = Annotated[str, Field(pattern=URL_PATH, max_length=1024)]
MountPath = Annotated[str, Field(pattern=MOUNT_PATH, max_length=1024)]
Key = Annotated[str, Field(pattern=KEY, max_length=253)]
QualifiedName = Annotated[str, Field(pattern=QUALIFIED_NAME, max_length=317)]


def as_integer(value: object) -> object:
    """Return a number as JSON has it: 1.0 is an integer, true is not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def without_nulls(value: object) -> object:
    """Return a map as the API server keeps it: without its nulls."""
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


def _quantity(value: object) -> object:
    number = as_integer(value)
    if isinstance(number, float):
        raise PydanticCustomError(
            "unquoted", 'a number with a fraction is text here: write "{value}"', {"value": number}
        )
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else number


def _int_or_string(pattern: str) -> WithJsonSchema:
    kinds = [{"type": "integer"}, {"type": "string"}]
    return WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "anyOf": kinds, "pattern": pattern, "minimum": 0, "maxLength": 32}
    )


Quantity = Annotated[str, BeforeValidator(_quantity), Field(pattern=QUANTITY, max_length=32), _int_or_string(QUANTITY)]


def _int_or_percent(value: object) -> int | str:
    number = as_integer(value)
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
        return number
    if isinstance(number, str) and re.fullmatch(PERCENT, number):
        return number
    raise PydanticCustomError(
        "int_or_percent", "{value} is not a number, or a share such as 50%", {"value": repr(value)}
    )


IntOrPercent = Annotated[int | str, PlainValidator(_int_or_percent), _int_or_string(PERCENT)]
# Passed on as it is: the API server knows its schema, which would be large here.
Passed = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
OneOf = Annotated[
    dict[str, Any],
    Field(min_length=1, max_length=1),
    WithJsonSchema(
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "minProperties": 1, "maxProperties": 1}
    ),
]
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=262_144)]], Field(max_length=64), BeforeValidator(without_nulls)
]
Labels = Annotated[
    dict[str, Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]],
    Field(max_length=64),
    BeforeValidator(without_nulls),
]


def valid_names(field: str) -> Rule:
    """Return the rule that the names in a map of labels or annotations are valid for the API server."""
    own = to_snake(field)
    return Rule(
        f"!has(self.{field}) || self.{field}.all(k, k.matches('{QUALIFIED_NAME}'))",
        f"{field}: a name is letters, digits, -, _ and . (63 at most), after a domain and / where it has one",
        lambda section: all(re.fullmatch(QUALIFIED_NAME, name) for name in getattr(section, own)),
    )


def seconds(duration: str) -> float:
    """Return a duration in seconds: `1m30s` is 90.0."""
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)(ms|s|m|h)", duration))


def whole_seconds(duration: str) -> int:
    """Return a duration in seconds, rounded up, as Kubernetes counts most of its times."""
    return math.ceil(seconds(duration))


def to_decimal(quantity: str) -> Decimal:
    """Return a quantity as a number: `500m` is 0.5, `1e3` is 1000."""
    number, unit = re.fullmatch(r"([+0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", quantity).groups()  # type: ignore[union-attr]
    return Decimal(number) * _UNITS[unit]


def to_int(quantity: str) -> int:
    """Return a quantity as an integer, rounded down: `1Mi` is 1048576."""
    return int(to_decimal(quantity))


class SecretKey(Section):
    """A key of a Secret in the same namespace."""

    name: ObjectName
    """The Secret."""
    key: Key
    """Its key."""


class SecretName(Section):
    """A Secret in the same namespace."""

    name: ObjectName
    """The Secret."""
