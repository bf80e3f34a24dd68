"""What a session hands to its user: results, pushes and gaps, as values."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: One frame of the protocol, decoded: docs/protocol.md lists the members of each `type`.
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a request."""

    #: The request's id.
    id: str
    #: Shorthand answer, output name → value; None when the request was made with `inputs`.
    data: Any
    #: V2 output tensors (`name`, `shape`, `datatype`, `data`); None when the request was made with `data`.
    outputs: list[dict[str, Any]] | None
    model: str | None
    model_version: str | None
    #: `queue_ms` and `inference_ms`, in milliseconds, as the gateway measured them.
    timing: Mapping[str, float] = field(default_factory=dict)
    #: The way that it was last accepted: `direct` or `queue`; None where the acceptance never arrived.
    route: str | None = None
    #: Its position in the session's log; None when it came straight from memory.
    position: str | None = None

    @classmethod
    def from_event(cls, event: Event, route: str | None) -> "Result":
        """The `result` event as a value; `route` is what `accepted` said."""
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
    """A record that something else wrote for this session. `data` is JSON, or bytes where it wasn't JSON."""

    data: Any
    position: str | None

    @classmethod
    def from_event(cls, event: Event) -> "Push":
        """The `push` event as a value."""
        encoded = event.get("data_base64")
        data = base64.b64decode(encoded) if encoded is not None else event.get("data")
        return cls(data=data, position=event.get("position"))


@dataclass(frozen=True, slots=True)
class Gap:
    """Events after `start` up to and including `end` can't be had any more; None where the bound is unknown.

    `reason` is the gateway's (`retention`, `epoch`, `ahead`, `requests`) or this client's own: `session` when the session
    could not be resumed and a new one began, `buffer` when pushes came faster than they were taken. With `requests` no event
    is missing: queued requests may be lost, and the session asks them again by itself.
    """

    start: str | None
    end: str | None
    reason: str

    @classmethod
    def from_event(cls, event: Event) -> "Gap":
        """The `gap` event as a value."""
        return cls(start=event.get("from"), end=event.get("to"), reason=str(event.get("reason", "unknown")))
