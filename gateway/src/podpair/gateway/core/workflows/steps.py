"""A step of an instance: the records and events that tell of it, and what is done once they are written."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from podpair.common.workflows.declaration import Call
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.workflows.records import Unit


@dataclass(slots=True)
class StartCall:
    """Call what a unit calls."""

    unit: Unit
    attempt: int
    call: Call
    input: Any
    checkpoint: bytes = b""


@dataclass(slots=True)
class Step:
    """What follows from what happened. Nothing of it is done before its records and events are written, together."""

    records: dict[str, bytes | None] = field(default_factory=dict)
    """By what their keys end with; empty: the instance's own."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """For the client, in order."""
    seq: int = 0
    """Of the `partial` that has the events."""
    calls: list[StartCall] = field(default_factory=list)
    """To be made. Calls of units that run no more, or in another attempt, are given up."""
    outcomes: list[tuple[str, str, float]] = field(default_factory=list)
    """Stages that ended: name, outcome, seconds that it took."""
    result: bytes | None = None
    """Of an instance that has its output: the JSON object of the `result`."""
    fault: Fault | None = None
    """Of an instance that has failed."""
    tries: int = 0
    """How often what failed was tried."""

    @property
    def ends(self) -> bool:
        """Whether the instance ends with it."""
        return self.result is not None or self.fault is not None

    @property
    def outcome(self) -> str:
        """How the instance ends, if it does: `result`, or the code of its error."""
        return "result" if self.fault is None else self.fault.code


def encode_events(events: list[dict[str, Any]]) -> bytes:
    """Encode the `data` of a `partial`."""
    return msgspec.json.encode(events)
