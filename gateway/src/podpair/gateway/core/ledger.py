"""The requests of one session: which are open, and which have ended lately.

Invariant: a request ends once. What comes for an id that has ended is the second copy (a worker died after its answer was
written, or two gateways ran the same request) and is not passed on. The first copy is, each time: a client that comes back to a
position before it is read to again from there. An answer that is not in Kafka counts as the first copy only for the connection
that it was sent on: a client that comes back may never have got it, and may have repeated the request elsewhere.

A request that repeats an id which has ended lately gets the answer that it had: it is kept here, or is in Kafka.
"""

from collections.abc import Callable, Container
from itertools import islice
from sys import getsizeof

import msgspec

from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.quotas import Grant
from podpair.gateway.core.recent_answers import RecentAnswers
from podpair.gateway.core.records import Event
from podpair.gateway.core.routing import Route
from podpair.gateway.core.span import Span

# Ended ids of a session; a second copy comes within a rebalance, not within hundreds of requests.
_REMEMBERED, _AT_LEAST = 256, 16
_FRESH, _LARGE = 16, 1024  # ends that are stored together; a result of more bytes isn't waited with
_ID = 150  # bytes that an ended id costs besides its text: a place in a dictionary, an offset
_MOST = _REMEMBERED * (_ID + getsizeof(""))  # bytes that so many cost at least


class OpenRequest(msgspec.Struct, eq=False):
    """A request that was accepted, or is about to be, and has not ended."""

    route: Route
    cancels_on_disconnect: bool
    accepted: bool = False  # its client has the `accepted` event
    abort: Callable[[], object] | None = None  # stops the work, if it runs here
    resume: Callable[[int], object] | None = None  # a stream: goes on behind the part that its client has seen last
    spills: bool = False  # it may go on through Kafka
    partition: int | None = None  # of the requests topic, once its record is there …
    offset: int = -1  # … at this offset
    cancelled: bool = False
    span: Span | None = None  # if it is traced; ends with it
    began: float = 0.0  # seconds on the performance counter: when it was asked
    model: str = ""
    later: bool = False  # it is kept until it is to begin
    grant: Grant | None = None  # of the token that it was asked with: it counts there until it ends

    def stop(self) -> bool:
        """Stop the work on the request, if it runs here; return whether it did."""
        abort, self.abort = self.abort, None
        if abort is None:
            return False
        abort()
        return True


class Ledger:
    """Open and lately ended requests, by id. At most `limit` are open.

    What is kept of those that have ended is about `kept_bytes`: one half for their ids, one for answers to be repeated.
    """

    __slots__ = ("_answers", "_ended", "_ended_most", "_ended_size", "_fresh", "_kept_bytes", "_limit", "_open")

    def __init__(self, limit: int, kept_bytes: int = 0) -> None:
        self._limit = limit
        self._kept_bytes = kept_bytes
        self._answers: RecentAnswers | None = None  # those that are not in Kafka; made when first needed
        self._open: dict[str, OpenRequest] = {}
        self._fresh: dict[str, bytes] = {}  # results of those that ended last, which are in neither of the others yet
        # Where each ended (offset in the home partition, -1: not in Kafka), in order of ending. Made when it is first
        # needed: most sessions only listen.
        self._ended: dict[str, int] | None = None
        self._ended_size = 0  # bytes, about; an id that ends again is counted again until they are trimmed
        self._ended_most = min(kept_bytes // 2, _MOST)  # bytes at which the oldest are forgotten

    def open(self, request_id: str, request: OpenRequest) -> None:
        """Begin a request. Raises Fault(overloaded) if the session has too many open."""
        if len(self._open) >= self._limit:
            raise Fault(Code.OVERLOADED, f"{self._limit} requests of this session are in flight", retry_after_ms=100)
        if self._fresh:
            self._settle()
        self._open[request_id] = request
        if request.grant is not None:
            request.grant.acquire()
        if self._ended and request_id in self._ended:
            self._discard_ended(request_id)

    def get(self, request_id: str) -> OpenRequest | None:
        """Return the open request with this id."""
        return self._open.get(request_id)

    def end(self, request_id: str, offset: int = -1) -> OpenRequest | None:
        """End a request with the record at `offset`, or with an event of this gateway's own.

        None if it wasn't open: it was accepted elsewhere, or has ended before.
        """
        if self._fresh:
            self._settle()
        request = self._open.pop(request_id, None)
        if request is None:
            if offset < 0:
                return None
        elif request.span is not None or request.grant is not None:
            _close(request)
        self._store_ended(request_id, offset)
        return request

    def _store_ended(self, request_id: str, offset: int) -> None:
        ended = self._ended
        if ended is None:
            ended = self._ended = {}
        ended[request_id] = offset
        self._ended_size += _ID + getsizeof(request_id)
        if self._ended_size > self._ended_most:
            self._trim(ended)

    def _trim(self, ended: dict[str, int]) -> None:
        """Forget the oldest, many at once: a dictionary looks over all that was deleted at its front for its first entry."""
        most = min(self._kept_bytes // 2, _MOST)
        size = _size(ended)
        while size > most and len(ended) > _AT_LEAST:
            ended = dict(islice(ended.items(), min((len(ended) + 3) // 4, len(ended) - _AT_LEAST), None))
            size = _size(ended)
        self._ended, self._ended_size = ended, size
        # Where those that are kept in any case are larger than that, not each that comes has them looked at again.
        self._ended_most = max(most, size + size // 4) if len(ended) <= _AT_LEAST else most

    def _discard_ended(self, request_id: str) -> None:
        if self._ended is not None and self._ended.pop(request_id, None) is not None:
            self._ended_size -= _ID + getsizeof(request_id)

    def store_answer(self, answer: Event) -> None:
        """Store the answer of a request that has ended here, for its repetition."""
        if self._fresh:
            self._settle()
        if self._kept_bytes and answer.id is not None:
            if self._answers is None:
                self._answers = RecentAnswers(self._kept_bytes // 2)
            self._answers.put(answer.id, answer)

    def open_plainly(self) -> tuple[dict[str, OpenRequest], Container[str], Container[str], Container[str], int]:
        """Return the open requests; the ids that have ended lately, or have an answer here, in three containers; and how many
        more requests may be opened.

        A caller may add so many requests without a span or a grant to the first, if their ids are in none of the containers,
        until anything else is done with the ledger.
        """
        return self._open, self._fresh, self._ended or (), self._answers or (), self._limit - len(self._open)

    def end_plainly(self, request_id: str, request: OpenRequest, result: bytes) -> bool:
        """End a request without a span or a grant; return whether it was still open. result: its members, without braces."""
        if self._open.get(request_id) is not request:
            return False
        del self._open[request_id]
        fresh = self._fresh
        fresh[request_id] = result
        if len(fresh) >= _FRESH or len(result) > _LARGE or not self._kept_bytes:
            self._settle()
        return True

    def _settle(self) -> None:
        """Add the newest ends, and their results, to the others."""
        fresh, self._fresh = self._fresh, {}
        ended = self._ended
        if ended is None:
            ended = self._ended = {}
        ended.update(dict.fromkeys(fresh, -1))
        self._ended_size += _ID * len(fresh) + sum(map(getsizeof, fresh))
        if self._ended_size > self._ended_most:
            self._trim(ended)
        if self._kept_bytes:
            if self._answers is None:
                self._answers = RecentAnswers(self._kept_bytes // 2)
            self._answers.put_results(fresh)

    def on_reconnect(self) -> None:
        """Forget ends that only the previous connection has seen."""
        if self._fresh:
            self._settle()
        if self._ended is not None:
            self._ended = {request_id: offset for request_id, offset in self._ended.items() if offset >= 0} or None
            self._ended_size = _size(self._ended or {})

    def on_log_moved(self) -> None:
        """Forget offsets of ended requests, because the session's results are in another log now."""
        if self._fresh:
            self._settle()
        if self._ended is not None:
            self._ended = dict.fromkeys(self._ended, -1)

    def on_answer_logged(self, request_id: str) -> None:
        """Treat the answer that comes from Kafka as the first copy, because the client did not get it here."""
        if self._fresh:
            self._settle()
        self._discard_ended(request_id)

    def recent_answer(self, request_id: str) -> Event | int | None:
        """Return the answer that an id has had lately, or its offset in the home partition; None if there is none, or it is
        gone.

        An answer that is given again from here is the one: what Kafka may still bring is its second copy.
        """
        if self._fresh:
            self._settle()
        kept = self._answers.get(request_id) if self._answers is not None else None
        if kept is not None:
            if not self.has_ended(request_id):
                self._store_ended(request_id, -1)
            return kept
        if self._ended is None:
            return None
        offset = self._ended.get(request_id, -1)
        return offset if offset >= 0 else None

    @property
    def remembers(self) -> bool:
        """Whether it knows anything about ids that have ended."""
        return bool(self._fresh) or bool(self._ended) or bool(self._answers)

    def has_ended(self, request_id: str) -> bool:
        """Return whether the request ended lately."""
        if self._fresh:
            self._settle()
        return self._ended is not None and request_id in self._ended

    def is_duplicate(self, request_id: str, offset: int) -> bool:
        """Return whether the request ended lately with something else than the terminal record at `offset`."""
        if self._fresh:
            self._settle()
        return self._ended is not None and self._ended.get(request_id, offset) != offset

    def discard(self, request_id: str) -> None:
        """Free the id of a request that was never accepted, or whose session has left."""
        request = self._open.pop(request_id, None)
        if request is not None:
            _close(request)

    def discard_older(self, began: float) -> None:
        """Forget requests on the queue route that were asked before `began` (on the performance counter)."""
        while self._open:
            request_id, request = next(iter(self._open.items()))
            if request.route == "direct" or request.began >= began:
                return
            self.discard(request_id)

    @property
    def opened(self) -> dict[str, OpenRequest]:
        """The open requests, by id."""
        return self._open


def _close(request: OpenRequest) -> None:
    """End the request's span, and release its grant."""
    if request.span is not None:
        request.span.end()
    if request.grant is not None:
        request.grant.release()


def _size(ended: dict[str, int]) -> int:
    """Return the approximate bytes that ended ids take."""
    return _ID * len(ended) + sum(map(getsizeof, ended))
