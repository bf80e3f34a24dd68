"""The Python client of a podpair gateway: `connect`, the session that it opens, and the errors that both raise."""

from podpair.client.calls import Stream
from podpair.client.channel_calls import Subscription
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
from podpair.client.events import Event, Gap, PresentSession, Publication, Push, Result, StageEvent
from podpair.client.jobs import ConnectOptions, Job, attach, submit
from podpair.client.options import JobOptions, RequestOptions
from podpair.client.runs import Run
from podpair.client.schedule import Backoff
from podpair.client.session import Session
from podpair.client.transport import Token

__all__ = [
    "Backoff",
    "Cancelled",
    "ConnectOptions",
    "DeadlineExceeded",
    "Event",
    "Forbidden",
    "Gap",
    "Internal",
    "Invalid",
    "Job",
    "JobOptions",
    "Lost",
    "NotFound",
    "Overloaded",
    "PodpairError",
    "PresentSession",
    "Publication",
    "Push",
    "RequestOptions",
    "Result",
    "Run",
    "Session",
    "SessionClosed",
    "StageEvent",
    "Stream",
    "Subscription",
    "TakenOver",
    "Token",
    "Unauthorized",
    "Unreachable",
    "Upstream",
    "attach",
    "connect",
    "submit",
]
