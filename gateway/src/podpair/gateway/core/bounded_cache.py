"""A cache bounded in bytes: answers kept for a while, so that a repeated request gets the same.

Invariant: the size is bounded, in bytes; the oldest entry is evicted first.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """At most `limit` bytes of values, whose sizes the caller gives."""

    __slots__ = ("_kept", "_limit", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Not a dict: that looks over all that was deleted at its front each time its first entry is asked for.
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.size = 0  # bytes

    def put(self, key: Key, value: Value, size: int) -> None:
        """Store a value of `size` bytes, evicting the oldest. A value larger than the limit is not stored."""
        if size > self._limit:
            return
        kept = self._kept
        if key in kept:
            self.discard(key)
        kept[key] = (value, size)
        total = self.size + size
        while total > self._limit:
            total -= kept.popitem(last=False)[1][1]
        self.size = total

    def get(self, key: Key) -> Value | None:
        """Return the value stored under the key."""
        found = self._kept.get(key)
        return None if found is None else found[0]

    def discard(self, key: Key) -> None:
        """Remove the key."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.size -= found[1]

    def __len__(self) -> int:
        return len(self._kept)
