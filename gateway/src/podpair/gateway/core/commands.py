"""Records of the requests topic that are no requests: what is said to requests that are under way."""

from typing import NamedTuple

WORKFLOW_SESSION = "workflow:"
"""What the sessions of requests begin with that workflows send to other gateways; the rest is the instance's key."""


class Cancellation(NamedTuple):
    """Nobody wants the answer to a queued request any more. It is in the request's partition, behind it."""

    id: str
    session: str


class Signal(NamedTuple):
    """A client's message to a workflow that waits for it, or will."""

    id: str
    session: str
    name: str
    data: bytes  # JSON


class Reply(NamedTuple):
    """Another gateway's answer to a request that a workflow has sent it."""

    id: str
    session: str
    failed: bool
    body: bytes  # of its result, or of its error
