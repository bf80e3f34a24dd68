"""Direct requests that are one row of numbers and ask for nothing else: begun by what one read brought, ended by the call.

Nothing is done for a request that can be done for a read, a call or a session: clocks, admission, metrics, the ledger, the write.
Invariant: what is begun here has the events, limits, cancellation, repetition and failures of any direct request; a frame that
needs anything more (`Dispatcher.infer`) is not begun.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from podpair.common.logs import ids
from podpair.gateway.core.direct_frames import direct_frames
from podpair.gateway.core.protocol import CloseCode, decode_plain_row
from podpair.gateway.core.records import Event, direct_events, result_event
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.row_codec import RowForm
from podpair.gateway.core.tensors import NotPackable
from podpair.gateway.kafka.producer import RecordProducer
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.direct import DirectRequests
from podpair.gateway.sessions.replies import Replies
from podpair.gateway.sessions.row_request import RowRequest
from podpair.gateway.sessions.session import Session
from podpair.gateway.upstream.batch_calls import Outcome
from podpair.gateway.upstream.factory import ModelAccess

_log = logging.getLogger(__name__)
_NOT_PLAIN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, NotPackable)
Rest = Callable[[Sequence[str]], object]
_Read = tuple[Session, Sequence[str], Rest]
_Answered = list[tuple[RowRequest, bytes]]


class DirectRows:
    """Begins and completes such requests. on_failure: called with the session, the request and why the model has no answer."""

    def __init__(
        self,
        model: ModelAccess,
        producer: RecordProducer,
        direct: DirectRequests,
        replies: Replies,
        metrics: Metrics,
        on_failure: Callable[[Session, InferenceRequest, Exception], None],
    ) -> None:
        self._client = model.client
        self._producer = producer
        self._direct = direct
        self._replies = replies
        self._latency = model.latency
        self._durations = metrics.request_duration
        self._results, self._requests = metrics.completed.labels("result"), metrics.requests.labels("direct")
        self._on_failure = on_failure
        # What was read in this turn of the loop: a connection's frames together, for one that is left holds up those behind it.
        self._waiting: dict[Rest, _Read] = {}
        self._loop = asyncio.get_running_loop()

    def begin_soon(self, session: Session, frames: Sequence[str], rest: Rest) -> None:
        """Begin the requests of these frames together with all that is read in this turn of the loop. The session has no grant.

        rest: gets the frames from the first on that can't be begun here, if there is one.
        """
        if not self._waiting:
            self._loop.call_soon(self.flush)
        before = self._waiting.get(rest)
        self._waiting[rest] = (session, frames if before is None else (*before[1], *frames), rest)

    def flush(self) -> None:
        """Begin now what waits for the end of the turn."""
        if not self._waiting:
            return
        reads, self._waiting = self._waiting, {}
        for rest, frames in self._begin(reads.values()):
            try:
                rest(frames)
            except Exception:  # it concerns this connection only
                _log.exception("frames could not be handled")

    def _begin(self, reads: Iterable[_Read]) -> list[tuple[Rest, Sequence[str]]]:
        """Begin the first requests of each read; return what is left."""
        free, callback, began = self._free(), self._on_outcomes, time.perf_counter()
        form: RowForm  # of the batch, for rows of …
        model, width = "", -1
        batch: list[RowRequest] = []
        left: list[tuple[Rest, Sequence[str]]] = []
        for session, frames, rest in reads:
            opened, fresh, ended, answers, room = session.ledger.open_plainly()
            count = 0
            try:
                for frame in frames:
                    if count == room or free <= 0:
                        break
                    row = decode_plain_row(frame)
                    data, request_id = row.data, row.id
                    if len(data) != width or row.model != model:
                        found = self._client.row_form(row.model, len(data))
                        if found is None:
                            break
                        if batch:
                            due, batch = batch, []
                            self._submit(due)
                        model, width, form = row.model, len(data), found
                    if request_id in opened or request_id in fresh or request_id in ended or request_id in answers:
                        break
                    request = RowRequest(
                        route="direct", cancels_on_disconnect=False, spills=row.route == "auto", began=began, session=session,
                        id=request_id, model=model, frame=frame, form=form, raw=form.pack(*data), callback=callback,
                    )  # fmt: skip
                    opened[request_id] = request
                    batch.append(request)
                    count += 1
                    free -= 1
            except _NOT_PLAIN:
                pass  # what is wrong, or wanted, is found out where any frame is read
            except Exception:  # as is this, which concerns this session only
                _log.exception("frames could not be read together", extra=ids(session=session.id))
            if count < len(frames):
                left.append((rest, frames[count:]))
        if batch:
            self._submit(batch)
        return left

    def _free(self) -> int:
        """Return how many requests may be begun: none if the answer of one could not be written to Kafka."""
        return 0 if self._producer.full else self._direct.free

    def _submit(self, requests: list[RowRequest]) -> None:
        """Submit requests of one form."""
        self._direct.add(len(requests))
        self._client.submit_rows(requests, requests[0].form)
        self._replies.accept_rows_soon(requests)

    def _on_outcomes(self, outcomes: list[tuple[RowRequest, Outcome]]) -> None:
        """Complete requests. Outcomes of one call arrive together, and are sent in one write per session."""
        self._direct.add(-len(outcomes))
        by_session: dict[Session, _Answered] = {}
        failed: list[tuple[RowRequest, Exception]] = []
        began: list[float] = []
        known = 0  # their clients have `accepted`
        answered: _Answered = []
        last: Session | None = None
        for request, outcome in outcomes:
            request.done = True
            if isinstance(outcome, Exception):
                failed.append((request, outcome))
                continue
            session = request.session
            if not session.ledger.end_plainly(request.id, request, outcome):
                continue  # answered by another gateway
            if session is not last:
                last, answered = session, by_session.setdefault(session, [])
            answered.append((request, outcome))
            began.append(request.began)
            if request.accepted:
                known += 1
            request.frame, request.raw = "", b""
        if began:
            for session, answered in by_session.items():
                try:
                    self._send(session, answered)
                except Exception:  # it concerns this session only
                    _log.exception("results could not be sent", extra=ids(session=session.id))
                    session.end(CloseCode.INTERNAL, "internal error: resume")
            self._requests.inc(len(began) - known)
            self._observe(outcomes[0][0].model, began)
        for request, error in failed:
            asked = request.request
            request.frame, request.raw = "", b""  # it may wait long for an answer through Kafka
            self._on_failure(request.session, asked, error)

    def _send(self, session: Session, answered: _Answered) -> None:
        """Send the results of a session's requests, which have ended."""
        if not self._replies.send_frames(session, direct_frames(answered)):
            events: list[Event] = []
            for request, members in answered:
                made = (result_event(request.id, members),) if request.accepted else direct_events(request.id, members)
                events += made
            self._replies.send(session, events)

    def _observe(self, model: str, began: list[float]) -> None:
        """Count requests to a model that have ended now."""
        now = time.perf_counter()
        self._latency.observe(model, now - min(began), time.monotonic())
        self._durations.labels(model).observe_all([now - each for each in began])
        self._results.inc(len(began))
