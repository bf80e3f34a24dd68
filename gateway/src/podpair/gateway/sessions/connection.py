"""One client's transport: events go straight to the socket while it takes them, and into a bounded outbox when it doesn't.

Invariant: what the outbox and the transport hold of the log is no more than the buffer's limit and one record, whatever the
sizes of records and batches; a client that takes nothing of it for `slow_seconds` is closed with 3008.

Frames are written to the transport beside aiohttp's own (pings, closes), which is sound because both write whole frames
in one call on the loop's thread.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from podpair.gateway.core.outbox import Outbox, Overflow
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.records import Event, Kind
from podpair.gateway.core.wires import Wire

HIGH_WATER = 64 * 1024  # bytes in the transport's own buffer above which events wait in the outbox
_FEW = 16  # events that are encoded without a look at how large they are together
_SWEEP = 0.02  # seconds between looks at congested connections

Close = Callable[[int, str], None]


class Pacer:
    """Looks after the connections that are congested, and only those: the others cost nothing.

    One that takes nothing for `patience` seconds is closed with 3008.
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
        """How many clients are slow right now."""
        return len(self._congested)

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock()
        for connection in list(self._congested):
            if connection.flush():
                self._congested.discard(connection)
            elif connection.idle(now) > self._patience:
                connection.close(CloseCode.SLOW, "too slow: resume to go on")
                self._congested.discard(connection)
        if self._congested:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)


class Connection:
    """A client that is there. `close(code, reason)` is how its edge (WebSocket or SSE) ends it."""

    __slots__ = (
        "_close", "_drained", "_early", "_early_size", "_high", "_left", "_limit", "_outbox", "_pacer", "_secured", "_since",
        "_transport", "closing", "wire",
    )  # fmt: skip

    def __init__(self, transport: asyncio.WriteTransport, wire: Wire, pacer: Pacer, limit: int, close: Close) -> None:
        self._transport = transport
        self._pacer = pacer
        self._close = close
        self._limit = limit
        self._high = min(HIGH_WATER, limit)
        # TLS hands what it is given to a transport below it, whose buffer can't be seen until it is full: in large pieces it
        # would hide them.
        self._secured = transport.get_extra_info("sslcontext") is not None
        self._left = 0  # bytes that the transport had when it was last seen to take some, and …
        self._since = 0.0  # … when that was; 0: since the last look
        self._outbox: Outbox | None = None  # made for the client that needs one
        self._drained: asyncio.Future[None] | None = None  # what `drained` waits for
        self._early: list[Event] | None = []  # what was sent before the welcome, which comes first; None: it has come
        self._early_size = 0  # bytes
        self.wire = wire
        self.closing = False  # nothing more is written

    @property
    def open(self) -> bool:
        """Whether something that is sent now may reach the client. A closed transport refuses to be written to."""
        return not self.closing and not self._transport.is_closing()

    @property
    def welcomed(self) -> bool:
        """Whether the welcome has been sent."""
        return self._early is None

    def send(self, events: Sequence[Event]) -> int:
        """Write events of the log, or keep them until the client takes them; returns how many, from the first, were taken.

        The others must come again, from the log, when the client has taken what waits: none is taken beyond the limit.
        """
        if not events or not self.open:
            return len(events)
        beside = self._transport.get_write_buffer_size()
        if (
            not self._outbox
            and beside <= self._high
            and (len(events) <= _FEW or sum(len(e.payload) for e in events) <= self._limit)
        ):
            data = self.wire.encode(events)
            if beside + len(data) <= self._limit or len(events) == 1:
                self._put(data)
                return len(events)
        outbox = self._waiting()
        taken = 0
        for event in events:
            if outbox.size + beside > self._limit:
                break
            taken += 1
            try:
                outbox.add(event, beside=beside)
            except Overflow:
                break
        self.flush()
        return taken

    def send_unlogged(self, events: Sequence[Event]) -> bool:
        """Write events that no log holds, or keep them; where even that is too much the client is closed with 3008.

        Returns False where it is closed already: nothing of them is kept.
        """
        if self.closing or self._transport.is_closing():
            return False
        if self._early is not None:
            self._early += events
            self._early_size += sum(len(event.payload) for event in events)
            if self._early_size > 2 * self._limit:
                self.close(CloseCode.SLOW, "too much came before the welcome: resume to go on")
        elif not self._outbox and self._transport.get_write_buffer_size() <= self._high:
            self._write(events)
        else:
            outbox, overflowed = self._waiting(), False
            for event in events:  # all of them: what can't be sent any more is found in there
                try:
                    outbox.add(event, extra=self._limit)
                except Overflow:
                    overflowed = True
            if overflowed:
                self.close(CloseCode.SLOW, "too slow: resume to go on")
        return True

    @property
    def congested(self) -> bool:
        """Whether the client has not taken what was written for it."""
        return (
            bool(self._outbox) or self._transport.get_write_buffer_size() > self._high or self._early_size > self._limit
        )

    def _waiting(self) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox(self._limit)
        self._pacer.add(self)
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
        if self._secured:
            view = memoryview(data)
            for start in range(0, len(data), HIGH_WATER):
                self._transport.write(view[start : start + HIGH_WATER])
        else:
            self._transport.write(data)
        self._watch()  # it may be the last for a while

    def _watch(self) -> None:
        """Have it seen to that the client takes what it is sent."""
        if self._transport.get_write_buffer_size() > self._high:
            self._pacer.add(self)

    def welcome(self, events: Sequence[Event]) -> None:
        """Send the first events; what requests of the session had to say meanwhile follows."""
        if self.open:  # else `unsent` finds what there is
            early, self._early, self._early_size = self._early or [], None, 0
            self.send_unlogged([*events, *early])

    def flush(self) -> bool:
        """Write what waits as far as the client takes it; True when nothing waits any more."""
        if not self.open:
            self._wake()
            return True
        outbox = self._outbox
        if self._transport.get_write_buffer_size() < self._left:
            self._since = 0.0
        while outbox and self._transport.get_write_buffer_size() <= self._high:
            self._since = 0.0
            self._write(outbox.take(self._high))
        self._left = self._transport.get_write_buffer_size()
        if self.congested:
            return False
        self._since = 0.0
        self._wake()
        return True

    def idle(self, now: float) -> float:
        """For how many seconds the client has taken nothing of what waits for it, as far as was looked."""
        if not self._since:
            self._since = now
        return now - self._since

    async def drained(self) -> None:
        """Return when the client has taken (nearly) everything, or is gone."""
        if not self.open or not self.congested:
            return
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        self._pacer.add(self)
        await asyncio.shield(self._drained)

    def close(self, code: int, reason: str) -> None:
        """End the connection, telling the client why."""
        if not self.closing:
            self.closing = True
            self._wake()
            self._close(code, reason)

    def unsent(self) -> list[Event]:
        """After the end: the terminal events that the client did not get and that are not in Kafka."""
        self.closing = True
        self._pacer.discard(self)
        self._wake()
        early, self._early, self._early_size = self._early or [], None, 0
        left = [event for event in early if event.kind is Kind.TERMINAL and event.offset < 0]
        return left + self._outbox.unsent() if self._outbox else left

    def _wake(self) -> None:
        waiting, self._drained = self._drained, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
