"""Where a connection is, between two calls of its transport.

    HEAD ──a head, its body incomplete──▶ BODY ──the rest──▶ ANSWER ──answered──▶ HEAD
     │ ╰──────────a whole request────────────────────────────▶│ ╰──the last answer──▶ LINGER
     ╰───────refused: bad, too large, too slow (BODY, too)────────────────────────────▶│
    any ──the transport has ended──▶ CLOSED

Invariant: a request is run in ANSWER alone, one at a time, so that answers are in the order of requests (RFC 9112, 9.3.2);
after LINGER no byte is taken for a request (9.6).
"""

from enum import IntEnum


class State(IntEnum):
    """Where a connection is."""

    HEAD = 0  # it waits for a request, or has a part of its head
    BODY = 1  # a head is complete, its body is not
    ANSWER = 2  # a request is being answered; what comes is kept for later
    LINGER = 3  # the last answer is written; what still comes is read and dropped
    CLOSED = 4  # the transport has ended
