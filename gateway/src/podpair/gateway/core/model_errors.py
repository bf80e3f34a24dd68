"""Errors of the inference container: it is away, busy, or failed. `RetryPolicy` decides what becomes of the request."""

from podpair.common.redaction import redact


class Unavailable(Exception):
    """The inference container is not there: no connection to it can be made (`down`), or it went away in the middle of a
    call (`midway`), or it is not ready.

    The message is for operators: it may hold addresses. `said` is the container's own message, if it gave one.
    """

    reason = "unavailable"

    def __init__(self, message: str, *, midway: bool = False, down: bool = False, said: str = "") -> None:
        super().__init__(redact(message))
        self.midway = midway
        self.down = down
        self.said = said

    @property
    def client_message(self) -> str:
        """What the client gets: without addresses of what is behind the gateway."""
        return self.said or ("the model went away during the call" if self.midway else "the model can't be reached")


class ServiceUnavailable(Unavailable):
    """The container answered that it is not available (HTTP 503, gRPC UNAVAILABLE). If its health says that it is
    ready, it is busy, for this request.
    """

    reason = "busy"

    def __init__(self, message: str, retry_after: float, *, said: str = "") -> None:
        super().__init__(message, said=said)
        self.retry_after = retry_after  # seconds

    @property
    def client_message(self) -> str:
        return self.said or "the model is busy"


class Busy(Exception):
    """The inference container's queue is full."""

    reason = "busy"

    def __init__(self, retry_after: float, message: str = "the model's queue is full") -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class Failed(Exception):
    """The inference container answered that it failed, or in another protocol, or did not answer in time."""

    reason = "failed"


class Late(Failed):
    """The container did not answer in time."""

    reason = "late"


class TooLarge(Failed):
    """The answer is larger than `limit` bytes, and would be each time."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"its answer is larger than {limit} bytes (inference.max_response_bytes)")
