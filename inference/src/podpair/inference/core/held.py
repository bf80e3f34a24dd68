"""How many bytes of large requests are in memory, over every protocol: what bounds them is one number."""

from podpair.inference.core.errors import OverloadedError

LARGE = 65_536  # bytes; smaller requests aren't counted


class HeldBytes:
    """`bytes` of the large requests that are read, wait or are answered; past `limit` no further one is taken."""

    __slots__ = ("bytes", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Count so many bytes more. Raises OverloadedError where there is no room."""
        self.check()
        self.bytes += size

    def let_go(self, size: int) -> None:
        """Count them no longer."""
        self.bytes -= size

    def check(self) -> None:
        """Raises OverloadedError where there is no room."""
        if self.bytes > self.limit:
            raise OverloadedError(
                f"the requests at work have more than {self.limit} bytes (server.max_pending_bytes)", 1.0
            )
