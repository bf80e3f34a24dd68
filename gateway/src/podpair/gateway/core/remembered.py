"""Answers that are kept for a while, so that who asks again is told the same.

Invariant: what is kept is bounded, in bytes; what was kept first goes first.
"""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """At most `limit` bytes of values, each as large as its keeper says."""

    __slots__ = ("_kept", "_limit", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[Key, tuple[Value, int]] = {}
        self.size = 0  # bytes

    def keep(self, key: Key, value: Value, size: int) -> None:
        """Keep a value of `size` bytes; the oldest give way. One that is larger than the limit is not kept."""
        if size > self._limit:
            return
        self.forget(key)
        kept = self._kept
        kept[key] = (value, size)
        self.size += size
        while self.size > self._limit:
            self.size -= kept.pop(next(iter(kept)))[1]

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
