"""The Python client of a podpair gateway: `connect`, and what it gives and raises."""

from podpair.client.calls import Stream
from podpair.client.connecting import connect
from podpair.client.errors import (
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    Internal,
    Invalid,
    Lost,
    NotFound,
    Overloaded,
    PodpairError,
    SessionClosed,
    TakenOver,
    Unauthorized,
    Unreachable,
    Upstream,
)
from podpair.client.events import Event, Gap, Push, Result
from podpair.client.schedule import Backoff
from podpair.client.session import Session

__all__ = [
    "Backoff",
    "Cancelled",
    "DeadlineExceeded",
    "Event",
    "Forbidden",
    "Gap",
    "Internal",
    "Invalid",
    "Lost",
    "NotFound",
    "Overloaded",
    "PodpairError",
    "Push",
    "Result",
    "Session",
    "SessionClosed",
    "Stream",
    "TakenOver",
    "Unauthorized",
    "Unreachable",
    "Upstream",
    "connect",
]
