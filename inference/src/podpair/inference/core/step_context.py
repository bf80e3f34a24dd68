"""What a step of a workflow is given besides its input.

It is imported with the package, and so imports nothing that takes long.
"""

from collections.abc import Callable
from typing import Any

# Sends a chunk: its kind and value. Raises TypeError or ValueError if the value isn't JSON.
Emit = Callable[[str, Any], object]


class StepCancelledError(BaseException):
    """Nobody waits for this step any more: its stage was cancelled or took too long, or the gateway has gone. Let it pass."""


class StepContext:
    """What a step of a workflow knows of its call besides its input: a function in `steps.py` that has an argument `context`
    is given one.
    """

    __slots__ = ("_cancelled", "_emit", "attempt", "checkpoint", "key")

    key: str
    """The same in each attempt, and no other call's: `<session>/<request>/<stage>`, within a `for_each` also `/<index>`.

    A step may be run more than once, after a crash for example. Give this key to what it writes to, so that its effect comes
    once.
    """
    attempt: int
    """1 in the first attempt."""
    checkpoint: Any
    """What an earlier attempt saved last; None if it saved nothing."""

    def __init__(self, key: str, attempt: int, checkpoint: Any, emit: Emit) -> None:
        self.key = key
        self.attempt = attempt
        self.checkpoint = checkpoint
        self._emit = emit
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for this step any more. A function that isn't async can't be interrupted: it looks here."""
        return self._cancelled

    def progress(self, value: Any) -> None:
        """Tell the client how far the step is, in any value that is JSON. Returns at once.

        Raises TypeError or ValueError if it is none, and StepCancelledError if nobody waits any more.
        """
        self._say("progress", value)

    def save(self, value: Any) -> None:
        """Save a value that is JSON, which the next attempt finds as its `checkpoint`. Returns at once, before it is kept.

        Raises as `progress`.
        """
        self._say("checkpoint", value)

    def cancel(self) -> None:
        """Note that nobody waits any more."""
        self._cancelled = True

    def _say(self, kind: str, value: Any) -> None:
        if self._cancelled:
            raise StepCancelledError
        self._emit(kind, value)
