"""Answers that are kept for a while, so that who asks again is told the same.

Invariant: what is kept is bounded, in bytes; what was kept first goes first.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """At most `limit` bytes of values, each as large as its keeper says."""

    __slots__ = ("_kept", "_limit", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Not a dict: that looks over all that was deleted at its front each time its first entry is asked for.
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.size = 0  # bytes

    def keep(self, key: Key, value: Value, size: int) -> None:
        """Keep a value of `size` bytes; the oldest give way. One that is larger than the limit is not kept."""
        if size > self._limit:
            return
        kept = self._kept
        if key in kept:
            self.forget(key)
        kept[key] = (value, size)
        total = self.size + size
        while total > self._limit:
            total -= kept.popitem(last=False)[1][1]
        self.size = total

    def get(self, key: Key) -> Value | None:
        """What is kept under the key."""
        found = self._kept.get(key)
        return None if found is None else found[0]

    def forget(self, key: Key) -> None:
        """Keep nothing under the key."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.size -= found[1]

    def __len__(self) -> int:
        return len(self._kept)
