"""A span, as the gateway's core knows it: it ends with the request whose step it is (`tracing.py` makes them)."""

from typing import Protocol


class Span(Protocol):
    """A recorded step of a request."""

    traceparent: str

    def failed(self, why: str) -> None:
        """Mark the span as failed."""
        ...

    def end(self) -> None:
        """End the span now."""
        ...
