"""The trace of a request, as the core knows it: stages note their times in it (`tracing.py` makes spans of them)."""

from typing import Protocol


class Trace(Protocol):
    """The trace of a recorded request."""

    def stage(self, name: str, begun: float, ended: float) -> None:
        """Record the time in a stage; times are those of `time.monotonic()`."""
        ...

    def annotate(self, **about: str | int) -> None:
        """Add attributes."""
        ...

    def traceparent(self) -> str:
        """Return the `traceparent` of what is done for the request elsewhere."""
        ...
