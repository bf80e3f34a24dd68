"""Models to load and unload, from the states of a repository now and before. No file is touched here.

A model's `state` is any text that differs when its files do. A change is acted upon once two polls in a row agree: files that
are still being written differ each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# A failed load is retried after so many seconds, even if the files are the same: its cause may be elsewhere.
RETRY_SECONDS = 60.0


@dataclass(slots=True)
class PendingChanges:
    """Models to load and unload after one poll."""

    # Model → the state it is to be loaded in.
    load: dict[str, str] = field(default_factory=dict)
    unload: list[str] = field(default_factory=list)


class Changes:
    """states: the models as they were when they were loaded."""

    def __init__(self, states: Mapping[str, str]) -> None:
        # As last acted upon.
        self._known = dict(states)
        self._last: Mapping[str, str] = states
        # Model → when it may be retried.
        self._retry: dict[str, float] = {}

    def poll(self, states: Mapping[str, str], now: float) -> PendingChanges:
        """Return what has changed and is stable since the last poll. An empty repository is a fault of its volume: no changes."""
        if not states:
            return PendingChanges()
        last, self._last = self._last, dict(states)
        todo = PendingChanges()
        for name, state in states.items():
            due = name in self._retry and now >= self._retry[name]
            if last.get(name) == state and (self._known.get(name) != state or due):
                todo.load[name] = state
        todo.unload = [name for name in self._known if name not in states and name not in last]
        return todo

    def loaded(self, name: str, state: str) -> None:
        """Note that a model is served as it was in that state."""
        self._known[name] = state
        self._retry.pop(name, None)

    def failed(self, name: str, state: str, now: float) -> None:
        """Note that a model can't be served in that state; it is retried when it changes, or after a while."""
        self._known[name] = state
        self._retry[name] = now + RETRY_SECONDS

    def unloaded(self, name: str) -> None:
        """Note that a model is no longer served."""
        self._known.pop(name, None)
        self._retry.pop(name, None)
