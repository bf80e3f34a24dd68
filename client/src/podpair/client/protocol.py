"""A session from the client's side, without I/O: what is open, what was seen, what has to be sent again.

Every accepted request must end in exactly one terminal event although connections break at any moment. So this is the
one place that knows which requests are open and how each was accepted; the transport only carries frames. Invariants:
an event whose position was seen is delivered once; a terminal event is delivered only to a request that is open; after
each new connection every open request is either waiting for its result in Kafka, or to be sent again, or reported lost.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from podpair.client.channel_state import ChannelStates
from podpair.client.events import Event

TERMINAL = frozenset({"result", "error"})
#: Positions remembered to recognise a second delivery; a gateway repeats only what is near.
SEEN_POSITIONS = 4096


@dataclass(slots=True)
class Request:
    """One `infer` that has not ended."""

    id: str
    #: Members of the frame, without `type`, `id`, `deadline_ms` and `retry`.
    body: dict[str, Any]
    #: Monotonic seconds; None for none.
    deadline: float | None = None
    #: May run a second time when it can't be known whether it ran: False reports `lost` instead.
    resend: bool = True
    #: The frame was handed to the present connection, or to one that accepted it for good.
    sent: bool = False
    #: The frame was handed to some connection before.
    retry: bool = False
    #: `direct` or `queue`, once accepted.
    route: str | None = None
    #: Highest `seq` of its partials: a second run begins at 0 again, and nobody wants to read the same twice.
    seq: int = -1
    #: Parts came that hold some of what was given already: no further ones, the result has the whole.
    overlapped: bool = False
    #: Nobody waits for it any more; it is open only until its terminal event has come.
    cancelled: bool = False
    #: It is to be cancelled, and its terminal event is waited for.
    cancelling: bool = False
    #: What the stages of a workflow wait for, by name. Nothing acknowledges a signal, so each is sent again with every
    #: connection: the gateway takes the first of a name.
    signals: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class SessionState:
    """What outlives a connection. Feed it with `receive`, poll it with `next_frame`, call `disconnected` when the wire breaks."""

    #: Token of the last `welcome` with which to resume, on any gateway.
    resume: str | None = None
    #: The last position processed.
    position: str | None = None
    session: str | None = None
    #: The position at which the session began, as far as it was seen here: the first one of the session of that id.
    began: str | None = None
    #: Name of the process that answers; another one after a reconnect means that direct requests are in doubt.
    gateway: str | None = None
    #: Unix seconds at which the token ends.
    expires_at: float | None = None
    #: `in_flight`, `message_bytes`, `idle_seconds`, `resume_seconds`, where the gateway says them.
    limits: dict[str, float] = field(default_factory=dict)
    #: The `welcome` of the present connection has come.
    welcomed: bool = False
    #: What is subscribed to.
    channels: ChannelStates = field(default_factory=ChannelStates)
    #: Requests by id, in the order in which they were made.
    open: dict[str, Request] = field(default_factory=dict)
    #: Requests that wait for the wire, in order.
    _outbox: deque[str] = field(default_factory=deque)
    #: Frames that go before any request: `cancel`, `signal`, `refresh`.
    _controls: deque[Event] = field(default_factory=deque)
    #: Requests on the wire: what counts against `limits.in_flight`.
    _in_flight: int = 0
    #: Upgrades refused with 401 since the last welcome.
    _refusals: int = 0
    _seen: dict[str, None] = field(default_factory=dict)

    # --- from the user -------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request. Raises ValueError if its id is open."""
        if request.id in self.open:
            raise ValueError(f"request id {request.id!r} is already open")
        self.open[request.id] = request
        self._outbox.append(request.id)

    def adopt(self, request_id: str, body: dict[str, Any] | None = None) -> Request:
        """Count as open a request that was queued in this session by somebody else: its events come here.

        Args:
            request_id: Its id.
            body: The members of its frame, to send it again after a gap; without, it is reported lost then.

        Raises ValueError if its id is open.
        """
        if request_id in self.open:
            raise ValueError(f"request id {request_id!r} is already open")
        request = Request(request_id, body or {}, resend=bool(body), sent=True, retry=True, route="queue")
        self.open[request_id] = request
        self._in_flight += 1
        return request

    def cancel(self, request_id: str) -> None:
        """Cancel a request that nobody waits for any more, also at the gateway if it can know of it."""
        request = self.open.get(request_id)
        if request is None or request.cancelled:
            return
        request.cancelled = request.retry  # else no gateway has seen it
        if request.cancelled and self.welcomed:
            self._controls.append({"type": "cancel", "id": request_id})
        if not request.sent and (self.welcomed or not request.cancelled):
            self._forget(request)

    def signal(self, request_id: str, name: str, data: Any) -> bool:
        """Send what a stage of a workflow waits for: the first signal of a name. Returns False if the request is not open."""
        request = self.open.get(request_id)
        if request is None or request.cancelled:
            return False
        if name not in request.signals:
            request.signals[name] = data
            if request.sent and self.welcomed:
                self._controls.append(_signal(request_id, name, data))
        return True

    def ask_to_cancel(self, request_id: str) -> list[Event]:
        """Cancel a request whose terminal event is waited for all the same. Returns it if no gateway has to say it."""
        request = self.open.get(request_id)
        if request is None or request.cancelling or request.cancelled:
            return []
        if not request.retry:  # no gateway has seen it
            self._forget(request)
            return [_error(request_id, "cancelled", "cancelled before it was sent")]
        if not request.sent and self.welcomed:
            self._outbox.remove(request_id)
            return [self._take_back(request)]
        request.cancelling = True
        if self.welcomed:
            self._controls.append({"type": "cancel", "id": request_id})
        return []

    def leave(self, request_id: str) -> None:
        """Forget an open request without a word to the gateway: it goes on there."""
        request = self.open.get(request_id)
        if request is not None:
            self._forget(request)

    def control(self, frame: Event) -> None:
        """Send a frame about a channel on the present connection."""
        if self.welcomed:
            self._controls.append(frame)

    def refresh(self, token: str) -> None:
        """Send a newer token on the present connection."""
        if self.welcomed:
            self._controls.append({"type": "refresh", "token": token})

    def expire(self, request_id: str) -> list[Event]:
        """End a request whose deadline has passed without an answer, and cancel it at the gateway."""
        if request_id not in self.open or self.open[request_id].cancelled:
            return []
        self.cancel(request_id)
        return [_error(request_id, "deadline_exceeded", "no answer before the deadline")]

    def refuse(self, request_id: str, message: str) -> list[Event]:
        """End a request that can't be sent: an `invalid` of the client's own."""
        request = self.open.get(request_id)
        if request is None:
            return []
        self._forget(request)
        return [_error(request_id, "invalid", message)]

    # --- to the wire ---------------------------------------------------------------------------------------------

    def query(self) -> dict[str, str]:
        """Return the query parameters to connect with."""
        # A position alone goes on with a session that the token names. After a welcome it comes with the resume token, or the
        # session is given up.
        goes_on = self.resume is not None or self.session is None
        known = {"resume": self.resume, "position": self.position if goes_on else None}
        return {name: value for name, value in known.items() if value is not None}

    def next_frame(self, now: float) -> Event | None:
        """Return the next frame to send, or None: nothing waits, no welcome yet, or the in-flight window is full.

        `now` is on the clock of the deadlines: the gateway gets what is left of a deadline.
        """
        if not self.welcomed:
            return None
        if self._controls:
            return self._controls.popleft()
        if not self._outbox or self._in_flight >= self.limits.get("in_flight", float("inf")):
            return None
        request = self.open[self._outbox.popleft()]
        frame: Event = {"type": "infer", "id": request.id, **request.body}
        if request.deadline is not None:
            frame["deadline_ms"] = max(1, round((request.deadline - now) * 1000))
        if request.retry:
            frame["retry"] = True
            if request.seq >= 0:
                frame["seen"] = request.seq
        request.sent = request.retry = True
        self._in_flight += 1
        self._signal_again(request)
        return frame

    # --- from the wire -------------------------------------------------------------------------------------------

    def disconnected(self) -> None:
        """Note that the connection is gone; its requests stay open until the next welcome decides about them."""
        self.welcomed = False
        self._controls.clear()

    def refused(self) -> bool:
        """Decide whether to try again after a 401: once as before, for keys rotate; then for a new session."""
        self._refusals += 1
        if self._refusals == 2 and self.resume is not None:
            self.resume = None
            return True
        return self._refusals == 1

    def receive(self, event: Event) -> list[Event]:
        """Return the events to deliver for one that arrived: none if it was seen or nobody waits, more after a welcome."""
        kind = event.get("type")
        if kind == "welcome":
            return [event, *self._welcome(event)]
        if isinstance(event.get("channel"), str):  # its position is the channel's
            return self.channels.receive(event)
        if isinstance(event.get("subject"), str):  # about presence: an error of it ends no request
            return [event]
        position = event.get("position")
        if isinstance(position, str) and not self._advance(position):
            return []
        if kind == "gap":
            self.position = event.get("to") or self.position
            self.resume = event.get("resume") or self.resume
            return [event, *self._after_gap()]
        request_id = event.get("id")
        if request_id is None or kind not in ("accepted", "partial", "result", "error"):
            return [event]
        return [event] if self._concerns(kind, event, self.open.get(request_id)) else []

    def _concerns(self, kind: str, event: Event, request: Request | None) -> bool:
        """Note what the event says about its request. Returns whether anybody waits for it."""
        if request is None:
            return False
        if kind == "accepted":
            request.route = event.get("route")
        elif kind == "partial":
            seq: int = event.get("seq", request.seq + 1)
            if seq <= request.seq or request.overlapped:
                return False
            request.overlapped = int(event.get("from", seq)) <= request.seq
            if not request.overlapped:
                request.seq = seq
            return not request.overlapped and not request.cancelled
        elif kind in TERMINAL:
            self._forget(request)
        return not request.cancelled

    def _welcome(self, event: Event) -> Iterable[Event]:
        """Take over what a welcome says; the first of a connection also decides about each open request."""
        before, was = self.session, self.position
        self.session, self.resume = event.get("session"), event.get("resume")
        self.gateway, self.expires_at = event.get("gateway"), event.get("expires_at")
        self.limits = event.get("limits") or {}
        if self.welcomed:  # it answers a refresh: reading goes on where it is
            return []
        self.welcomed, self._refusals = True, 0
        self._controls.extend(self.channels.frames())
        self.position = event.get("position") or self.position
        if before != self.session:
            self.began = self.position
        if before is None:
            return []
        continued = before == self.session and bool(event.get("resumed"))
        gap = {"type": "gap", "from": was, "to": event.get("position"), "reason": "session"}
        return [*([] if continued else [gap]), *self._reconcile(continued)]

    def _reconcile(self, continued: bool) -> list[Event]:
        """docs/protocol.md, "Resuming": for each open request, wait, send again or report lost."""
        lost = []
        self._in_flight = 0
        for request in list(self.open.values()):
            if request.cancelled:
                # The word may not have got through. Whether it is known there doesn't matter: nobody waits.
                self._controls.append({"type": "cancel", "id": request.id})
                del self.open[request.id]
            elif not request.sent and not request.cancelling:
                continue
            elif request.sent and request.route == "queue" and continued:
                self._in_flight += 1
                if request.cancelling:  # the word may not have got through
                    self._controls.append({"type": "cancel", "id": request.id})
                self._signal_again(request)
            elif request.cancelling and request.resend:
                lost.append(self._take_back(request))
            elif request.route == "queue" or not request.resend:
                del self.open[request.id]
                lost.append(_error(request.id, "lost", _why_lost(request)))
            else:
                request.sent, request.route = False, None
        self._outbox = deque(request.id for request in self.open.values() if not request.sent)
        return lost

    def _after_gap(self) -> list[Event]:
        """docs/protocol.md, "Resuming": queued requests, or their answers, may be in the gap. The gateway knows: ask again."""
        lost = []
        for request in list(self.open.values()):
            if not request.sent or request.cancelled or request.route != "queue":
                continue
            self._in_flight -= 1
            if request.cancelling and request.resend:
                lost.append(self._take_back(request))
            elif request.resend:
                request.sent, request.route = False, None
            else:
                del self.open[request.id]
                lost.append(_error(request.id, "lost", "it may be in a gap, and was not to be sent again"))
        self._outbox = deque(request.id for request in self.open.values() if not request.sent)
        return lost

    def _signal_again(self, request: Request) -> None:
        self._controls.extend(_signal(request.id, name, data) for name, data in request.signals.items())

    def _take_back(self, request: Request) -> Event:
        """End a request that is to be cancelled instead of sending it again, and send its cancellation once more."""
        self._controls.append({"type": "cancel", "id": request.id})
        del self.open[request.id]
        return _error(request.id, "cancelled", "cancelled before it was accepted again")

    def _advance(self, position: str) -> bool:
        """Note a position; False if it was seen."""
        if position in self._seen:
            return False
        self._seen[position] = None
        if len(self._seen) > SEEN_POSITIONS:
            del self._seen[next(iter(self._seen))]
        self.position = position
        return True

    def _forget(self, request: Request) -> None:
        del self.open[request.id]
        if request.sent:
            self._in_flight -= 1
        else:
            self._outbox.remove(request.id)


def _signal(request_id: str, name: str, data: Any) -> Event:
    return {"type": "signal", "id": request_id, "name": name, "data": data}


def _error(request_id: str, code: str, message: str) -> Event:
    return {"type": "error", "id": request_id, "code": code, "message": message}


def _why_lost(request: Request) -> str:
    if request.route == "queue":
        return "the session could not be resumed; the result went to the one before"
    return "the connection broke before the answer, and the request was not to be sent again (resend=False)"
