"""The memory that large requests may use, over all protocols together."""

from podpair.inference.core.errors import OverloadedError

MIN_COUNTED_BYTES = 65_536  # bytes; smaller requests aren't counted


class MemoryBudget:
    """`bytes` of the large requests that are being read, queued or answered; beyond `limit` no further one is accepted."""

    __slots__ = ("bytes", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def acquire(self, size: int) -> None:
        """Reserve `size` bytes. Raises OverloadedError if there is no room."""
        self.check()
        self.bytes += size

    def release(self, size: int) -> None:
        """Release reserved bytes."""
        self.bytes -= size

    def check(self) -> None:
        """Raise OverloadedError if there is no room."""
        if self.bytes > self.limit:
            raise OverloadedError(
                f"the requests at work have more than {self.limit} bytes (server.max_pending_bytes)", 1.0
            )
