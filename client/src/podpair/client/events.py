"""Results, pushes and gaps, as values."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
        )


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
class Gap:
    """Events after `start` up to and including `end` can't be had any more; None if the bound is unknown.

    `reason` is the gateway's (`retention`, `epoch`, `ahead`, `requests`) or this client's own: `session` when the session
    could not be resumed and a new one began, `buffer` when pushes came faster than they were taken. With `requests` no event
    is missing: queued requests may be lost, and the session asks them again by itself.
    """

    start: str | None
    end: str | None
    reason: str

    @classmethod
    def from_event(cls, event: Event) -> "Gap":
        """Make the value of a `gap` event."""
        return cls(start=event.get("from"), end=event.get("to"), reason=str(event.get("reason", "unknown")))
