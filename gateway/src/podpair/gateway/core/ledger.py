"""The requests of one session: which are open, and which have ended lately.

Invariant: a request ends once. What comes for an id that has ended is the second copy (a worker died after its answer was
written, or two gateways ran the same request) and is not passed on. The first copy is: a client that comes back to a place
before it is read to again from there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.routing import Route

_REMEMBERED = 256  # ended ids of a session; a second copy comes within a rebalance, not within hundreds of requests


@dataclass(slots=True)
class OpenRequest:
    """A request that was accepted, or is about to be, and has not ended."""

    route: Route
    cancels_on_disconnect: bool
    accepted: bool = False  # its client was told so
    abort: Callable[[], object] | None = None  # stops the work, where it runs here
    spills: bool = False  # it may go on through Kafka
    began: float = 0.0  # seconds on the performance counter: when it was accepted, on the direct route


class Ledger:
    """Open and lately ended requests, by id."""

    __slots__ = ("_ended", "_limit", "_open")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, OpenRequest] = {}
        # Where each ended (offset in the home partition, -1: not in Kafka), in order of ending. Made when it is first
        # needed: most sessions only listen.
        self._ended: dict[str, int] | None = None

    def open(self, request_id: str, request: OpenRequest) -> None:
        """Begin a request. Raises Fault(overloaded) where the session has too many open."""
        if len(self._open) >= self._limit:
            raise Fault(Code.OVERLOADED, f"{self._limit} requests of this session are in flight", retry_after_ms=100)
        self._open[request_id] = request
        if self._ended:
            self._ended.pop(request_id, None)

    def get(self, request_id: str) -> OpenRequest | None:
        """The open request with this id."""
        return self._open.get(request_id)

    def end(self, request_id: str, offset: int = -1) -> OpenRequest | None:
        """The request ends with the record at `offset`, or with an event of this gateway's own.

        None if it wasn't open (it was accepted elsewhere, and is not remembered here).
        """
        request = self._open.pop(request_id, None)
        if request is None:
            return None
        ended = self._ended
        if ended is None:
            ended = self._ended = {}
        ended[request_id] = offset
        if len(ended) > _REMEMBERED:
            del ended[next(iter(ended))]
        return request

    def is_second_copy(self, request_id: str, offset: int) -> bool:
        """Whether the request ended lately, and with something else than the terminal record at `offset`."""
        return self._ended is not None and self._ended.get(request_id, offset) != offset

    def forget(self, request_id: str) -> None:
        """It was never accepted: its id is free again."""
        self._open.pop(request_id, None)

    @property
    def opened(self) -> dict[str, OpenRequest]:
        """The open requests, by id."""
        return self._open
