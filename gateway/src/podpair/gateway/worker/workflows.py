"""The interface of whoever runs workflows, as the worker knows it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.records import Reply, Request, Signal
from podpair.gateway.worker.request import Cancellable


@dataclass(frozen=True, slots=True)
class BeginHooks:
    """What becomes of a request for a workflow: one of these is called, once."""

    on_begun: Callable[[], object]
    """Called once its state, or the request that is kept, is durable, or if it was before: an earlier reading of the record has
    begun it."""
    on_refused: Callable[[Fault], object]
    """Called if it can't begin, or if another request with its id has ended so."""
    on_answered: Callable[[bytes], object]
    """Called with the body of the `result` that another request with its id has had."""


class Workflows(Protocol):
    """Runs the workflows of this gateway's request partitions."""

    def assigned(self, partition: int) -> None:
        """Go on with the workflows of a requests partition."""
        ...

    async def drain(self, partitions: Collection[int], timeout: float) -> None:
        """Begin no further stage of these partitions, and wait up to `timeout` seconds for those that run."""
        ...

    def dropped(self, partitions: Collection[int]) -> None:
        """Let go of partitions: another gateway goes on."""
        ...

    def begin(
        self,
        number: int,
        record: Any,
        request: Request,
        model: Model,
        hooks: BeginHooks,
    ) -> Cancellable:
        """Begin an instance, unless it has begun, or ended, before. `record`: the request's, in partition `number`."""
        ...

    def keep(self, number: int, record: Any, request: Request, hooks: BeginHooks) -> Cancellable:
        """Keep a request until it is to begin, and write its record again then. Raises Fault(invalid) if it can't be kept."""
        ...

    def cancel(
        self, number: int, session: str, request_id: str, done: Callable[[], object], *, ended_here: bool
    ) -> None:
        """Cancel an instance, or a request that is kept, if it is in this partition; `done` is called once that is durable.

        ended_here: the cancellation has ended a request that was in hand.
        """
        ...

    def signal(self, number: int, signal: Signal, done: Callable[[], object]) -> None:
        """Pass on a client's message; `done` is called once that is durable."""
        ...

    def reply(self, number: int, reply: Reply, done: Callable[[], object]) -> None:
        """Pass on another gateway's answer; `done` is called once that is durable, or if it is nobody's."""
        ...

    async def close(self) -> None:
        """Let go of all partitions."""
        ...
