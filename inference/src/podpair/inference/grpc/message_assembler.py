"""Puts the messages of a stream together from its data (PROTOCOL-HTTP2.md of gRPC: Length-Prefixed-Message).

Invariant: what is held here, or announced by the prefix of a message that is still coming, is counted in the memory budget.
"""

from collections import deque

from podpair.inference.core.memory_budget import MIN_COUNTED_BYTES, MemoryBudget
from podpair.inference.grpc.wire_format import PREFIX_BYTES


class MessageAssembler:
    """The messages of one stream that a method has not read yet, and the beginning of the next one."""

    __slots__ = ("_budget", "_buffer", "_counted", "_expected", "_queued", "_queued_bytes")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._buffer = bytearray()
        self._queued: deque[bytes] = deque()
        self._queued_bytes = self._counted = 0
        # The size of a message, with its prefix, for which room was found.
        self._expected = 0

    def __len__(self) -> int:
        """Return how many messages are queued."""
        return len(self._queued)

    @property
    def is_partial(self) -> bool:
        """Whether there is the beginning of a message, or a message that was not taken yet."""
        return bool(self._buffer)

    @property
    def size(self) -> int:
        """The size that the next message's prefix announces; 0 if that has not come."""
        return int.from_bytes(self._buffer[1:PREFIX_BYTES], "big") if len(self._buffer) >= PREFIX_BYTES else 0

    @property
    def missing(self) -> int:
        """The bytes that are missing of the next message, as far as is known."""
        return PREFIX_BYTES + self.size - len(self._buffer)

    def add(self, data: memoryview) -> None:
        """Add what came."""
        self._buffer += data
        self._count()

    def take(self) -> tuple[bool, bytes] | None:
        """Take the next message, if it is whole: whether it is compressed, and its bytes."""
        if self.missing > 0:
            return None
        end = PREFIX_BYTES + self.size
        with memoryview(self._buffer) as view:
            message = bytes(view[PREFIX_BYTES:end])
        compressed = bool(self._buffer[0])
        del self._buffer[:end]
        self._expected = 0
        self._count()
        return compressed, message

    def expect(self) -> None:
        """Find room for the message whose beginning is there. Raises OverloadedError if there is none."""
        wanted = PREFIX_BYTES + self.size
        if self._expected < wanted:
            self._budget.check()
            self._expected = wanted
            self._count()

    def queue(self, message: bytes) -> None:
        """Keep a message until it is read."""
        self._queued.append(message)
        self._queued_bytes += len(message)
        self._count()

    def next(self) -> bytes:
        """Return the message that was queued first."""
        message = self._queued.popleft()
        self._queued_bytes -= len(message)
        self._count()
        return message

    def clear(self) -> None:
        """Forget everything."""
        self._buffer.clear()
        self._queued.clear()
        self._queued_bytes = self._expected = 0
        self._count()

    def _count(self) -> None:
        expected = self._expected if self._expected >= MIN_COUNTED_BYTES else 0
        size = max(len(self._buffer), expected) + self._queued_bytes
        self._budget.bytes += size - self._counted
        self._counted = size
