"""What a connection knows of its requests; `grpc.http2_call` is one."""

from typing import Protocol


class Stream(Protocol):
    """One request on a connection."""

    send_window: int
    """Bytes that the client takes of it yet."""
    receive_window: int
    """Bytes that the client may send yet."""
    ended: bool
    """Whether the client has sent everything."""

    def on_data(self, data: memoryview, ended: bool) -> None:
        """Take what came of its body; ended: that was all."""
        ...

    def on_window(self) -> None:
        """Go on sending: a window has opened."""
        ...

    def on_reset(self) -> None:
        """End: the client has given it up, or has gone."""
        ...


class RequestHead(Protocol):
    """What is needed of a header block by its connection."""

    @property
    def is_request(self) -> bool:
        """Whether it begins a request; else it ends one."""
        ...

    @property
    def malformed(self) -> str | None:
        """What is wrong with it; None if nothing is."""
        ...
