"""`spec.gateway.cache`: models whose answers are given again."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podpair.operator.core.api.rules import KeyedBy, Rule, Section
from podpair.operator.core.api.scalars import Duration, DurationOrZero, Quantity, seconds, to_decimal

_SMALLEST = "1Ki"
_SHORTEST, _LONGEST = "200ms", "1m"


class CachedModel(Section):
    """A model whose answers are cached. Equal questions that arrive while one is in flight share its call."""

    RULES: ClassVar = (
        Rule(
            f"quantity(string(self.memory)).compareTo(quantity('{_SMALLEST}')) >= 0",
            f"memory must be {_SMALLEST} at least",
            lambda cached: to_decimal(cached.memory) >= to_decimal(_SMALLEST),
        ),
    )
    model: Annotated[str, Field(min_length=1, max_length=253)]
    """Its name."""
    scope: Literal["subject", "shared"] = "subject"
    """Whose questions count as equal: `subject`, those of one user (claim sub); `shared`, everybody's who may ask the model, if
    its answers depend on nothing but the input."""
    ttl: DurationOrZero = "5m"
    """How long an answer is given again; 0s: not at all, only questions in flight are shared."""
    memory: Quantity = "64Mi"
    """Bytes of answers at each pod, besides what the gateway needs (`gateway.resources`); the least recently used go first."""


class Cache(Section):
    """Answers that are given again without asking the model. With it there is a topic, `<requests topic>.cache`, whose records
    remove answers at all pods (docs/caching.md).
    """

    RULES: ClassVar = (
        Rule(
            f"duration(self.lease) >= duration('{_SHORTEST}') && duration(self.lease) <= duration('{_LONGEST}')",
            f"lease ({{lease}}) must be between {_SHORTEST} and {_LONGEST}",
            lambda cache: seconds(_SHORTEST) <= seconds(cache.lease) <= seconds(_LONGEST),
        ),
    )
    models: Annotated[tuple[CachedModel, ...], Field(min_length=1, max_length=64), KeyedBy("model")]
    """The models whose answers are cached; of no other is anything kept."""
    lease: Duration = "2s"
    """How long after its acknowledgement by the broker a record that removes answers is in force at all pods."""
