"""gRPC's status codes, and handlers of methods, as grpcio has them: HTTP/2 of our own serves them without importing it."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple


class Status(IntEnum):
    """How a call ended (doc/statuscodes.md of gRPC)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Handler(NamedTuple):
    """A method that is a coroutine, or a generator if there are several answers; the attributes are those of grpcio's."""

    unary_unary: Any = None
    unary_stream: Any = None
    stream_stream: Any = None
    request_deserializer: Callable[[bytes], Any] | None = None
    response_serializer: Callable[[Any], bytes] | None = None

    @property
    def request_streaming(self) -> bool:
        """Whether there are several messages."""
        return self.stream_stream is not None

    @property
    def response_streaming(self) -> bool:
        """Whether there are several answers."""
        return self.unary_unary is None
