"""One client's transport: events go straight to the socket while the client reads, and into a bounded outbox while it doesn't.
A slow consumer is closed.

Invariant: the outbox and the transport buffer at most the limit and one record of the log, whatever the sizes of records and
batches; a slow consumer, which reads nothing for `sessions.slow_consumer_timeout_seconds`, is closed with 3008.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from podpair.gateway.core.answer_frames import AnswerFrame
from podpair.gateway.core.outbox import Outbox, Overflow
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.record_batch import Record, value_size
from podpair.gateway.core.records import Event, Kind
from podpair.gateway.core.wires import Wire
from podpair.gateway.sessions.socket_queue import is_acknowledged

HIGH_WATER = 64 * 1024  # bytes in the transport's own buffer above which events wait in the outbox
_FEW = 16  # events that are encoded without adding up their sizes
_ACCEPTED = 64  # bytes of the frame of an `accepted` besides its id
_SWEEP = 0.02  # seconds between checks of congested connections

Close = Callable[[int, str], None]


class BackpressureMonitor:
    """Flushes congested connections; the others cost nothing.

    A connection whose client reads nothing for `patience` seconds is closed with 3008.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._congested: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "Connection") -> None:
        self._congested.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def discard(self, connection: "Connection") -> None:
        self._congested.discard(connection)

    @property
    def congested(self) -> int:
        """The number of slow clients."""
        return len(self._congested)

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock()
        for connection in list(self._congested):
            if connection.flush():
                self._congested.discard(connection)
            elif connection.stalled_for(now) > self._patience:
                connection.close(CloseCode.SLOW, "too slow: resume to go on")
                self._congested.discard(connection)
        if self._congested:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)


class Connection:
    """The connection of a client. close: called with a code and a reason; how its edge (WebSocket or SSE) ends it."""

    __slots__ = (
        "_backpressure",
        "_before_welcome",
        "_before_welcome_bytes",
        "_close",
        "_drained",
        "_high",
        "_last_size",
        "_limit",
        "_outbox",
        "_stalled_since",
        "_tls",
        "_transport",
        "closing",
        "wire",
    )

    def __init__(
        self, transport: asyncio.WriteTransport, wire: Wire, backpressure: BackpressureMonitor, limit: int, close: Close
    ) -> None:
        self._transport = transport
        self._backpressure = backpressure
        self._close = close
        self._limit = limit
        self._high = min(HIGH_WATER, limit)
        # TLS passes data on to a transport below it, whose buffer is not visible until it is full: large writes would be
        # hidden there.
        self._tls = transport.get_extra_info("sslcontext") is not None
        self._last_size = 0  # bytes in the transport at the last flush, and …
        self._stalled_since = 0.0  # … since when the client has read nothing; 0: it has read since the last check
        self._outbox: Outbox | None = None  # created when it is needed
        self._drained: asyncio.Future[None] | None = None  # resolved when the client has caught up
        # What was sent before the welcome, which comes first; None: the welcome has been sent.
        self._before_welcome: list[Event] | None = []
        self._before_welcome_bytes = 0  # bytes
        self.wire = wire
        self.closing = False  # nothing more is written

    @property
    def open(self) -> bool:
        """Whether an event that is sent now may reach the client. A closed transport rejects writes."""
        return not self.closing and not self._transport.is_closing()

    @property
    def welcomed(self) -> bool:
        """Whether the welcome has been sent."""
        return self._before_welcome is None

    def send(self, events: Sequence[Event]) -> int:
        """Write events of the log, or buffer them. Return how many, from the first, were accepted.

        None is accepted beyond the limit: the caller reads the others from the log again once the client has caught up.
        """
        if not events or not self.open:
            return len(events)
        buffered = self._transport.get_write_buffer_size()
        if (
            not self._outbox
            and buffered <= self._high
            and (len(events) <= _FEW or sum(len(e.payload) for e in events) <= self._limit)
        ):
            data = self.wire.encode(events)
            if buffered + len(data) <= self._limit or len(events) == 1:
                self._put(data)
                return len(events)
        outbox = self._ensure_outbox()
        taken = 0
        for event in events:
            if outbox.size + buffered > self._limit:
                break
            taken += 1
            try:
                outbox.add(event, beside=buffered)
            except Overflow:
                break
        self.flush()
        return taken

    def send_pushes(self, records: Sequence[Record]) -> bool:
        """Write records of the log at once, if each is a push and the client keeps up. Return False if nothing was done."""
        transport = self._transport
        if self._outbox or self.closing or transport.is_closing():
            return False
        buffered = transport.get_write_buffer_size()
        if buffered > self._high or (len(records) > _FEW and sum(map(value_size, records)) > self._limit):
            return False
        data = self.wire.pushes(records)
        if data is None or (buffered + len(data) > self._limit and len(records) > 1):
            return False
        if len(data) <= self._high:
            transport.write(data)
        else:
            self._put(data)
        return True

    def send_shared(self, data: bytes) -> bool:
        """Write events of a log that are encoded for this kind of connection, if the client keeps up.

        Return False if nothing was done.
        """
        transport = self._transport
        if self._outbox or self.closing or transport.is_closing():
            return False
        buffered = transport.get_write_buffer_size()
        if buffered > self._high or len(data) > self._high or buffered + len(data) > self._limit:
            return False
        if data:
            transport.write(data)
        return True

    def send_frames(self, frames: bytes) -> bool:
        """Write text frames of events that no log holds, if the client is there and keeps up.

        Return False if nothing was done: the same events have to be sent in another way.
        """
        transport = self._transport
        if (
            self._outbox or self.closing or transport.is_closing() or self._before_welcome is not None
            or not self.wire.text_frames or transport.get_write_buffer_size() > self._high or len(frames) > self._high
        ):  # fmt: skip
            return False
        transport.write(frames)
        return True

    def answers(self, records: Sequence[Record]) -> list[AnswerFrame] | None:
        """Encode results of the log for `write`; None if one of them isn't a plain result, or the client doesn't keep up."""
        transport = self._transport
        if self._outbox or self.closing or transport.is_closing():
            return None
        buffered = transport.get_write_buffer_size()
        if buffered > self._high:
            return None
        frames = self.wire.answers(records)
        if (
            frames is None
            or buffered + sum([2 * len(frame.id) + _ACCEPTED + len(frame.data) for frame in frames]) > self._limit
        ):
            return None
        return frames

    def write(self, frames: Sequence[bytes]) -> None:
        """Write frames of results, and `accepted` of their requests, that `answers` has allowed."""
        if frames:
            self._put(b"".join(frames))

    def send_unlogged(self, events: Sequence[Event]) -> bool:
        """Write events that no log holds, or buffer them; if the buffer overflows the client is closed with 3008.

        Return False if the connection is already closed: then nothing is kept.
        """
        if self.closing or self._transport.is_closing():
            return False
        if self._before_welcome is not None:
            self._before_welcome += events
            self._before_welcome_bytes += sum(len(event.payload) for event in events)
            if self._before_welcome_bytes > 2 * self._limit:
                self.close(CloseCode.SLOW, "too many events before the welcome: resume to go on")
        elif not self._outbox and self._transport.get_write_buffer_size() <= self._high:
            self._write(events)
        else:
            outbox, overflowed = self._ensure_outbox(), False
            for event in events:  # all of them: `undelivered` finds there what can't be sent any more
                try:
                    outbox.add(event, extra=self._limit)
                except Overflow:
                    overflowed = True
            if overflowed:
                self.close(CloseCode.SLOW, "too slow: resume to go on")
        return True

    @property
    def congested(self) -> bool:
        """Whether the client lags behind what was written for it."""
        return (
            bool(self._outbox)
            or self._transport.get_write_buffer_size() > self._high
            or self._before_welcome_bytes > self._limit
        )

    def acknowledged(self) -> bool:
        """Return whether all that was written has reached the machine at the other end (a client's, or a proxy's)."""
        return self.open and self.welcomed and not self.congested and is_acknowledged(self._transport)

    def _ensure_outbox(self) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox(self._limit)
        self._backpressure.add(self)
        return self._outbox

    def _write(self, events: Sequence[Event]) -> None:
        data = self.wire.encode(events)
        if 0 < len(data) <= self._high:
            self._transport.write(data)
        elif data:
            self._put(data)

    def _put(self, data: bytes) -> None:
        if len(data) <= self._high:
            self._transport.write(data)
            return
        if self._tls:
            view = memoryview(data)
            for start in range(0, len(data), HIGH_WATER):
                self._transport.write(view[start : start + HIGH_WATER])
        else:
            self._transport.write(data)
        self._watch()  # no other write may follow for a while

    def _watch(self) -> None:
        """Have the connection monitored if it is congested."""
        if self._transport.get_write_buffer_size() > self._high:
            self._backpressure.add(self)

    def welcome(self, events: Sequence[Event]) -> None:
        """Send the first events, then those that requests of the session sent before the welcome."""
        if self.open:  # else `undelivered` finds them
            pending, self._before_welcome, self._before_welcome_bytes = self._before_welcome or [], None, 0
            self.send_unlogged([*events, *pending])

    def flush(self) -> bool:
        """Write buffered events as far as the client reads them. Return True once none are left."""
        if not self.open:
            self._wake()
            return True
        outbox = self._outbox
        if self._transport.get_write_buffer_size() < self._last_size:
            self._stalled_since = 0.0
        while outbox and self._transport.get_write_buffer_size() <= self._high:
            self._stalled_since = 0.0
            self._write(outbox.pop(self._high))
        self._last_size = self._transport.get_write_buffer_size()
        if self.congested:
            return False
        self._stalled_since = 0.0
        self._wake()
        return True

    def stalled_for(self, now: float) -> float:
        """Return for how many seconds the client has been seen to read nothing."""
        if not self._stalled_since:
            self._stalled_since = now
        return now - self._stalled_since

    async def drained(self) -> None:
        """Wait until the client has read (nearly) everything, or is gone."""
        if not self.open or not self.congested:
            return
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        self._backpressure.add(self)
        await asyncio.shield(self._drained)

    def close(self, code: int, reason: str) -> None:
        """Close the connection, with a reason for the client."""
        if not self.closing:
            self.closing = True
            self._wake()
            self._close(code, reason)

    def undelivered(self) -> list[Event]:
        """Close, and return the terminal events that the client did not get and that are not in Kafka."""
        self.closing = True
        self._backpressure.discard(self)
        self._wake()
        pending, self._before_welcome, self._before_welcome_bytes = self._before_welcome or [], None, 0
        left = [event for event in pending if event.kind is Kind.TERMINAL and event.offset < 0]
        return left + self._outbox.unsent() if self._outbox else left

    def _wake(self) -> None:
        waiting, self._drained = self._drained, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
