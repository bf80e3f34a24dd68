"""Whose request a Python class answers: what its own calls to other models inherit from it.

It is in a context variable, so that user code needs to hand nothing on: tasks, `asyncio.to_thread` and callbacks have it by
themselves, a thread that user code starts has none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from podpair.inference.core.batching import NORMAL


class RequestContext(msgspec.Struct, array_like=True, frozen=True):
    """The request that is answered, or the batch of requests."""

    # The latest deadline, on the monotonic clock, which the processes of a machine share; None: one of them has none.
    deadline: float | None = None
    # Of PRIORITIES.
    priority: int = NORMAL
    # Of the first request that is recorded.
    traceparent: str | None = None
    # The models that are at work on it, each called by the one before it.
    path: tuple[str, ...] = ()
    # The model is being loaded or warmed up, and answers nobody.
    loading: bool = False


NO_REQUEST = RequestContext()


class _Loading:
    """A context of loading. Tasks that are begun during that have it for good, and outlive the loading."""

    __slots__ = ("context",)

    def __init__(self, context: RequestContext) -> None:
        self.context = context

    def end(self) -> None:
        self.context = msgspec.structs.replace(self.context, loading=False)


_current: ContextVar[RequestContext | _Loading] = ContextVar("request", default=NO_REQUEST)


def current() -> RequestContext:
    """Return the context of the request that the calling code answers."""
    found = _current.get()
    return found.context if isinstance(found, _Loading) else found


@contextmanager
def answering(context: RequestContext) -> Iterator[None]:
    """Answer a request for the duration of the `with` block, which must not yield to other code of the same task."""
    loading = _Loading(context) if context.loading else None
    token = _current.set(context if loading is None else loading)
    try:
        yield
    finally:
        _current.reset(token)
        if loading is not None:
            loading.end()
