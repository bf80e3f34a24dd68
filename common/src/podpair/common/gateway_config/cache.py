"""Settings of the answer cache."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from podpair.common.gateway_config.fields import Count, PositiveSeconds, Seconds, Section, TopicName, check_once
from podpair.common.lists import Listed


class CachedModel(Section):
    """A model whose answers are cached. Equal questions that arrive while one is in flight share its call (single-flight)."""

    model: Annotated[str, Field(min_length=1)]
    """Its name."""
    scope: Literal["subject", "shared"] = "subject"
    """Whose questions count as equal: `subject`, those of one user (claim sub); `shared`, everybody's who may ask the model, if
    its answers depend on nothing but the input."""
    ttl_seconds: Seconds = 300
    """How long an answer is given again; 0: not at all, only questions in flight are shared."""
    max_bytes: Count = 64 << 20
    """Memory for answers; the least recently used go first."""


class Cache(Section):
    """Answers that are given again without asking the model, by declaration: those of requests that want no stream."""

    models: Annotated[tuple[CachedModel, ...], Listed] = ()
    """The models whose answers are cached; of no other is anything kept."""
    topic: TopicName | None = None
    """Topic whose records invalidate answers at all gateways (docs/caching.md). Unset: answers are given for `ttl_seconds`."""
    lease_seconds: Annotated[float, Field(ge=0.2, le=60)] = 2
    """How long after its acknowledgement by the broker an invalidation is in force everywhere, and how long a gateway that can't
    read the topic goes on giving answers that it has kept. The same on every gateway; of several the longest counts."""
    replication: Count | None = None
    """Copies of the topic if it is created here; unset is the broker's default."""
    retention_seconds: PositiveSeconds = 3600
    """How long records are kept, if the topic is created here. A gateway that missed some removes all answers."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        check_once([cached.model for cached in self.models])
        if self.topic is not None and not self.models:
            raise ValueError(
                "topic: no model's answers are cached, so there is nothing to invalidate: name some in models"
            )
        return self
