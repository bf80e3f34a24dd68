"""What to load and unload, from how a repository looks now and has looked before. No file is touched here.

A model's `state` is anything that differs when its files do. It is acted upon once it has been the same twice: what is still
being written looks different each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# What failed is tried again after so many seconds, even if it looks the same: its cause may lie elsewhere.
RETRY_SECONDS = 60.0


@dataclass(slots=True)
class Todo:
    """What one look asks for."""

    # Model → the state it is to be loaded in.
    load: dict[str, str] = field(default_factory=dict)
    unload: list[str] = field(default_factory=list)


class Changes:
    """states: the models as they were when they were loaded."""

    def __init__(self, states: Mapping[str, str]) -> None:
        # As last acted upon.
        self._known = dict(states)
        self._last: Mapping[str, str] = states
        # Model → when it may be tried again.
        self._retry: dict[str, float] = {}

    def look(self, states: Mapping[str, str], now: float) -> Todo:
        """What has changed, and has settled since the last look. An empty repository is a fault of its volume: nothing."""
        if not states:
            return Todo()
        last, self._last = self._last, dict(states)
        todo = Todo()
        for name, state in states.items():
            due = name in self._retry and now >= self._retry[name]
            if last.get(name) == state and (self._known.get(name) != state or due):
                todo.load[name] = state
        todo.unload = [name for name in self._known if name not in states and name not in last]
        return todo

    def loaded(self, name: str, state: str) -> None:
        """It is served as it was in that state."""
        self._known[name] = state
        self._retry.pop(name, None)

    def failed(self, name: str, state: str, now: float) -> None:
        """It can't be served in that state; nothing is tried before it changes, or some time has passed."""
        self._known[name] = state
        self._retry[name] = now + RETRY_SECONDS

    def unloaded(self, name: str) -> None:
        """It has gone."""
        self._known.pop(name, None)
        self._retry.pop(name, None)
