"""The Python client of a podpair gateway: `connect`, the session that it opens, and the errors that both raise."""

from podpair.client.calls import Stream
from podpair.client.connector import connect
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
from podpair.client.options import RequestOptions
from podpair.client.schedule import Backoff
from podpair.client.session import Session
from podpair.client.transport import Token

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
    "RequestOptions",
    "Result",
    "Session",
    "SessionClosed",
    "Stream",
    "TakenOver",
    "Token",
    "Unauthorized",
    "Unreachable",
    "Upstream",
    "connect",
]
