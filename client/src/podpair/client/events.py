"""Results, pushes and gaps, as values."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Event = dict[str, Any]
"""One frame of the protocol, decoded: docs/protocol.md lists the members of each `type`."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a request."""

    id: str
    """The request's id."""
    data: Any
    """Shorthand answer, output name → value; None if the request was made with `inputs`."""
    outputs: list[dict[str, Any]] | None
    """V2 output tensors (`name`, `shape`, `datatype`, `data`); None if the request was made with `data`."""
    model: str | None
    """The model's name."""
    model_version: str | None
    """The version that answered; None if the server doesn't say."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """`queue_ms` and `inference_ms`, in milliseconds, as the gateway measured them."""
    route: str | None = None
    """The route that it was last accepted on: `direct` or `queue`; None if the acceptance never arrived."""
    position: str | None = None
    """Its position in the session's log; None if it came straight from memory."""
    cache: str | None = None
    """`hit` if it is an answer that the gateway had kept, `wait` if it is that of an equal question in flight; else None."""

    @classmethod
    def from_event(cls, event: Event, route: str | None) -> "Result":
        """Make the value of a `result` event; `route` is what `accepted` said."""
        return cls(
            id=event["id"],
            data=event.get("data"),
            outputs=event.get("outputs"),
            model=event.get("model"),
            model_version=event.get("model_version"),
            timing=event.get("timing") or {},
            route=route,
            position=event.get("position"),
            cache=event.get("cache"),
        )


@dataclass(frozen=True, slots=True)
class StageEvent:
    """What a workflow tells of one of its stages, or of the whole of it."""

    stage: str
    """The stage's name; empty if it is about the whole (`cancelling`)."""
    event: Literal[
        "started",
        "progress",
        "retrying",
        "waiting",
        "received",
        "finished",
        "skipped",
        "failed",
        "compensating",
        "compensated",
        "cancelling",
    ]
    """What has happened. A newer gateway may have further ones."""
    time: float
    """Unix seconds at which it happened."""
    attempt: int | None = None
    """The attempt, from 1 on; None if the gateway doesn't say."""
    index: int | None = None
    """The item of a `for_each`, from 0 on; None if it is about the whole stage."""
    of: int | None = None
    """How many items the `for_each` has."""
    data: Any = None
    """Of `progress`: what the step or model reports."""
    message: str | None = None
    """Of `failed` and `retrying`: the reason."""
    until: float | None = None
    """Of `waiting`: Unix seconds until which the stage waits for its signal."""

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "StageEvent":
        """Make the value of one element of a workflow's `partial`."""
        more = {name: event.get(name) for name in ("attempt", "index", "of", "data", "message", "until")}
        return cls(stage=str(event.get("stage", "")), event=event["event"], time=float(event["time"]), **more)


@dataclass(frozen=True, slots=True)
class Push:
    """A record that another producer wrote for this session. `data` is JSON, or bytes if it wasn't JSON."""

    data: Any
    position: str | None

    @classmethod
    def from_event(cls, event: Event) -> "Push":
        """Make the value of a `push` event."""
        encoded = event.get("data_base64")
        data = base64.b64decode(encoded) if encoded is not None else event.get("data")
        return cls(data=data, position=event.get("position"))


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published to a channel. `data` is JSON, or bytes if it wasn't JSON."""

    channel: str
    data: Any
    position: str | None

    @classmethod
    def from_event(cls, event: Event) -> "Publication":
        """Make the value of a `publication` event."""
        encoded = event.get("data_base64")
        data = base64.b64decode(encoded) if encoded is not None else event.get("data")
        return cls(channel=event["channel"], data=data, position=event.get("position"))


@dataclass(frozen=True, slots=True)
class PresentSession:
    """A session of a subject that is connected somewhere."""

    session: str
    since: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Events after `start` up to and including `end` can't be had any more; None if the bound is unknown.

    `reason` is the gateway's (`retention`, `epoch`, `ahead`, `requests`) or this client's own: `session` when the session
    could not be resumed and a new one began, `buffer` when pushes came faster than they were taken. With `requests` no event
    is missing: queued requests may be lost, and the session asks them again by itself.
    """

    start: str | None
    end: str | None
    reason: str
    channel: str | None = None
    """The channel whose publications are missing; None: it is about the session's own events."""

    @classmethod
    def from_event(cls, event: Event) -> "Gap":
        """Make the value of a `gap` event."""
        reason = str(event.get("reason", "unknown"))
        return cls(start=event.get("from"), end=event.get("to"), reason=reason, channel=event.get("channel"))
