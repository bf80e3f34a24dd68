"""`status`: what the operator has observed. Nothing here is a decision; a value that isn't known is left out."""

from typing import Annotated, Literal

from pydantic import Field

from podpair.operator.core.api.rules import KeyedBy, Section


class Condition(Section):
    """One condition, as everywhere in Kubernetes."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Reconciling, Stalled, KafkaReady, Scaling, Degraded, Paused, ReplicasCappedByPartitions."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, in one word that programs can rely on."""
    message: Annotated[str, Field(max_length=32_768)]
    """Why, and what to do about it."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status changed last."""
    observed_generation: Annotated[int, Field(json_schema_extra={"format": "int64"})] | None = None
    """The generation of the resource that it was computed from."""


class TopicStatus(Section):
    """A topic of this resource."""

    name: Annotated[str, Field(max_length=249)]
    """Its name."""
    id: Annotated[str, Field(max_length=64)]
    """Kafka's id of it: a topic that is recreated under its name has another. Empty: its creation was not confirmed yet."""
    origin: Literal["Created", "Adopted", "Existing"]
    """Created or Adopted by this resource, which alters and deletes it; Existing: somebody else's, used as it is."""
    settings: tuple[Annotated[str, Field(max_length=249)], ...] = ()
    """The settings that the resource has asked for: those that it no longer names are reset."""


class ConsumerGroupStatus(Section):
    """A consumer group of this resource."""

    id: Annotated[str, Field(max_length=249)]
    """Its id."""
    origin: Literal["Created", "Adopted", "Existing"]
    """Created by this resource, which deletes it; Existing: it was there before."""


class Status(Section):
    """What the operator has observed."""

    observed_generation: Annotated[int, Field(json_schema_extra={"format": "int64"})] | None = None
    """The generation of the resource that this status was computed from; -1 until the operator has reconciled it."""
    conditions: Annotated[
        tuple[Condition, ...],
        KeyedBy("type"),
    ] = ()
    """Ready, and what it depends on."""
    replicas: int | None = None
    """Existing pods."""
    ready_replicas: int | None = None
    """Ready pods."""
    ready: str | None = None
    """Ready pods of wanted ones, such as 2/3."""
    selector: str | None = None
    """Selects the pods, for autoscalers."""
    sessions: Annotated[int, Field(json_schema_extra={"format": "int64"})] | None = None
    """Sessions with a client connected, in all pods."""
    lag: Annotated[int, Field(json_schema_extra={"format": "int64"})] | None = None
    """Waiting queued requests; left out while it isn't known."""
    topics: Annotated[tuple[TopicStatus, ...], KeyedBy("name")] | None = None
    """The topics, and whose they are: podpair alters and deletes only what this resource created or adopted."""
    consumer_groups: Annotated[tuple[ConsumerGroupStatus, ...], KeyedBy("id")] | None = None
    """The consumer groups, and whose they are."""
    version: str | None = None
    """Version of the first model that most requests get."""
