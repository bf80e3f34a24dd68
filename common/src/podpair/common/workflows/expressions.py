"""Expressions of a workflow: JMESPath (https://jmespath.org/specification.html), which has no side effects and always ends.

What an expression sees is an object: `request` (the data that the client sent), `parameters`, the output of each finished stage
under the stage's name, and within a `for_each` `item` and `index`.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from pydantic import AfterValidator

from podpair.common.field_names import closest

RESERVED = frozenset({"request", "parameters", "item", "index"})
"""Names in the scope that are no stage's."""
_LONGEST = 4096


class ExpressionError(ValueError):
    """An expression could not be evaluated: a function got a value of the wrong type, say."""


@lru_cache(1024)
def _compiled(expression: str) -> Any:
    return jmespath.compile(expression)


def _checked(expression: str) -> str:
    if len(expression) > _LONGEST:
        raise ValueError(f"an expression has at most {_LONGEST} characters")
    try:
        tree = _compiled(expression).parsed
    except JMESPathError as error:
        raise ValueError(f"no JMESPath expression: {' '.join(str(error).split())}") from None
    for name in _functions(tree):  # jmespath itself misses them when it evaluates only
        if name not in Functions.FUNCTION_TABLE:
            meant = closest(name, Functions.FUNCTION_TABLE)
            raise ValueError(f"there is no function {name} in JMESPath" + (f"; did you mean {meant}?" if meant else ""))
    return expression


def _functions(node: Any) -> Iterator[str]:
    """Yield the names of the functions that an expression calls."""
    if isinstance(node, Mapping):
        if node["type"] == "function_expression":
            yield node["value"]
        for child in node["children"]:
            yield from _functions(child)


Expression = Annotated[str, AfterValidator(_checked)]
"""A JMESPath expression that compiles."""


def evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    """Return the JSON value of an expression over `scope`. Raises ExpressionError."""
    try:
        return _compiled(expression).search(scope)
    except (JMESPathError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise ExpressionError(f"{expression}: {' '.join(str(error).split())}") from None


def names_in(expression: str) -> frozenset[str]:
    """Return the names that an expression takes from the scope itself: `a` and `b` of `[a.x, b]`."""
    return frozenset(_roots(_compiled(expression).parsed))


# Nodes whose first child is evaluated where they are, and the others on what came of it, which is the same only after `@`.
_CHAINS = frozenset({"subexpression", "index_expression", "pipe"})
# Nodes whose first child is evaluated where they are, and the others on its elements.
_PROJECTIONS = frozenset({"projection", "value_projection", "filter_projection"})


def _roots(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields that are looked up in the scope: not those of what another part of the expression has found."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        yield node["value"]
    elif kind in _CHAINS:
        yield from _roots(children[0])
        if children[0]["type"] in ("current", "identity"):
            yield from _roots(children[1])
    elif kind in _PROJECTIONS:
        yield from _roots(children[0])
    elif kind != "expref":  # what that refers to is evaluated on the elements of a list
        for child in children:
            if isinstance(child, Mapping):  # a slice has numbers
                yield from _roots(child)
