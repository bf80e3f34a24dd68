"""The protocol without a socket: whatever breaks whenever, each request ends once, each position comes once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.client.protocol import TERMINAL, Request, SessionState


def welcome(**members: Any) -> dict[str, Any]:
    defaults = {"session": "s-1", "resume": "token", "resumed": True, "position": "e.0.0", "gateway": "a", "limits": {}}
    return {"type": "welcome", **defaults, **members}


def accepted_state(route: str | None, **request: Any) -> SessionState:
    """A session with one request on the wire, accepted by `route`."""
    state = SessionState()
    state.receive(welcome(resumed=False))
    state.submit(Request("r", {"model": "m"}, **request))
    assert state.next_frame(0.0) == {"type": "infer", "id": "r", "model": "m"}
    if route is not None:
        state.receive({"type": "accepted", "id": "r", "route": route})
    return state


@pytest.mark.parametrize(
    ("route", "resend", "again", "expected"),
    [
        ("queue", True, {}, "waits"),
        ("queue", False, {}, "waits"),
        ("queue", True, {"gateway": "b"}, "waits"),
        ("queue", True, {"session": "s-2", "resumed": False}, "lost"),
        ("queue", True, {"resumed": False}, "lost"),
        ("direct", True, {}, "sent"),
        ("direct", True, {"gateway": "b"}, "sent"),
        ("direct", True, {"session": "s-2", "resumed": False}, "sent"),
        ("direct", False, {}, "lost"),
        (None, True, {}, "sent"),
        (None, False, {}, "lost"),
    ],
)
def test_what_becomes_of_an_open_request(route: str | None, resend: bool, again: dict[str, Any], expected: str) -> None:
    state = accepted_state(route, resend=resend)
    state.disconnected()
    delivered = state.receive(welcome(**again))
    lost = [event["id"] for event in delivered if event.get("code") == "lost"]
    assert lost == (["r"] if expected == "lost" else [])
    frame = state.next_frame(0.0)
    assert frame == ({"type": "infer", "id": "r", "model": "m", "retry": True} if expected == "sent" else None)
    assert ("r" in state.open) == (expected != "lost")


def test_a_direct_request_that_spilled_waits_like_a_queued_one() -> None:
    state = accepted_state("direct")
    state.receive({"type": "accepted", "id": "r", "route": "queue"})
    state.disconnected()
    state.receive(welcome())
    assert state.next_frame(0.0) is None


def part(seq: int, data: str, **members: Any) -> dict[str, Any]:
    return {"type": "partial", "id": "r", "seq": seq, "data": data, **members}


def test_a_stream_that_is_sent_again_says_which_parts_it_has() -> None:
    state = accepted_state("direct")
    assert state.receive(part(0, "a"))
    assert state.receive(part(1, "b"))
    state.disconnected()
    state.receive(welcome())
    assert state.next_frame(0.0) == {"type": "infer", "id": "r", "model": "m", "retry": True, "seen": 1}
    assert not state.receive(part(1, "b"))
    assert state.receive(part(3, "cd", **{"from": 2}))
    assert state.receive(part(4, "e"))


def test_merged_parts_of_which_some_were_given_are_left_to_the_result() -> None:
    state = accepted_state("queue")
    assert state.receive(part(1, "ab", **{"from": 0}))
    assert not state.receive(part(3, "bcd", **{"from": 1}))
    assert not state.receive(part(4, "e"))
    assert state.receive({"type": "result", "id": "r", "data": {"text": "abcde"}})


def test_requests_are_sent_again_in_the_order_they_were_made() -> None:
    state = SessionState()
    state.receive(welcome(limits={"in_flight": 2}))
    for name in "abcd":
        state.submit(Request(name, {}))
    assert [state.next_frame(0.0) is not None for _ in range(3)] == [True, True, False]
    state.disconnected()
    assert state.next_frame(0.0) is None
    state.receive(welcome())
    frames = [state.next_frame(0.0) for _ in range(4)]
    assert [(frame["id"], "retry" in frame) for frame in frames if frame] == [
        ("a", True),
        ("b", True),
        ("c", False),
        ("d", False),
    ]


def test_what_is_left_of_a_deadline_is_what_the_gateway_is_told() -> None:
    state = SessionState()
    state.receive(welcome())
    for name, deadline in (("a", 12.5), ("b", 9.0)):
        state.submit(Request(name, {}, deadline=deadline))
    frames = [state.next_frame(10.0) for _ in range(2)]
    assert [frame["deadline_ms"] for frame in frames if frame] == [2500, 1]


@pytest.mark.parametrize(
    ("position", "resume", "expected"),
    [
        (None, None, {}),
        ("e.0.1", None, {"position": "e.0.1"}),
        (None, "token", {"resume": "token"}),
        ("e.0.1", "token", {"resume": "token", "position": "e.0.1"}),
    ],
)
def test_the_query_to_connect_with(position: str | None, resume: str | None, expected: dict[str, str]) -> None:
    assert SessionState(resume=resume, position=position).query() == expected


def test_a_session_that_is_given_up_leaves_its_position_behind() -> None:
    """The gap that the client declares itself stands for what followed."""
    state = SessionState()
    state.receive(welcome(resume="token"))
    state.disconnected()
    assert [state.refused(), state.refused(), state.refused()] == [True, True, False]
    assert state.query() == {}


@pytest.mark.parametrize(("to", "position"), [("e.0.40", "e.0.40"), (None, "e.0.3")])
def test_a_gap_moves_the_position_past_what_cannot_be_had(to: str | None, position: str) -> None:
    state = SessionState()
    state.receive(welcome(position="e.0.3"))
    state.receive({"type": "gap", "from": "e.0.3", "to": to, "reason": "retention"})
    assert state.position == position


def test_a_queued_request_is_asked_again_after_a_gap_for_its_answer_may_be_in_it() -> None:
    state = accepted_state("queue")
    state.submit(Request("waits", {}))
    gap = {"type": "gap", "from": "e.0.3", "to": "f.0.-1", "reason": "epoch"}
    assert state.receive(gap) == [gap]
    assert [(frame or {}).get("retry") for frame in (state.next_frame(0.0), state.next_frame(0.0))] == [True, None]
    assert state.next_frame(0.0) is None
    state.receive({"type": "accepted", "id": "r", "route": "queue"})
    assert state.receive({"type": "result", "id": "r", "data": 1, "position": "f.0.0"})


def test_queued_requests_are_asked_again_when_the_requests_topic_has_lost_some() -> None:
    """Such a gap has no positions, and skips none; but it has the token that says that its client knows."""
    state = accepted_state("queue")
    state.receive({"type": "push", "data": 1, "position": "e.0.3"})
    gap = {"type": "gap", "reason": "requests", "resume": "newer"}
    assert state.receive(gap) == [gap]
    assert (state.next_frame(0.0) or {}).get("retry") is True
    assert state.query() == {"resume": "newer", "position": "e.0.3"}


def test_a_request_that_was_posted_over_http_cannot_be_asked_again_after_a_gap() -> None:
    state = accepted_state("direct")
    state.adopt("posted")
    _, error = state.receive({"type": "gap", "reason": "requests"})
    assert (error["id"], error["code"]) == ("posted", "lost")
    assert state.next_frame(0.0) is None


@pytest.mark.parametrize(("route", "events"), [("queue", ["gap", "error"]), ("direct", ["gap"])])
def test_a_gap_loses_what_is_not_to_be_sent_again(route: str, events: list[str]) -> None:
    state = accepted_state(route, resend=False)
    told = state.receive({"type": "gap", "from": "e.0.3", "to": "f.0.-1", "reason": "epoch"})
    assert [event["type"] for event in told] == events
    assert [event.get("code") for event in told[1:]] == ["lost"] * (len(events) - 1)


def test_an_unsent_request_is_cancelled_without_a_word() -> None:
    state = SessionState()
    state.submit(Request("r", {}))
    state.cancel("r")
    state.receive(welcome())
    assert state.next_frame(0.0) is None


def test_an_id_that_is_open_cannot_be_used_again() -> None:
    state = accepted_state("direct")
    with pytest.raises(ValueError, match="already open"):
        state.submit(Request("r", {}))


STEP = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 5), st.just(False)),
    st.tuples(st.just("send"), st.just(0), st.just(False)),
    st.tuples(st.just("accept"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("cut"), st.integers(0, 2), st.booleans()),
)


class Run:
    """Drives a session by any steps, with a gateway that may say anything it could have said."""

    def __init__(self) -> None:
        self.state = SessionState()
        self.terminal: dict[str, int] = {}
        self.positions: list[str] = []
        self.known: set[str] = set()
        self.offset = self.submitted = 0
        self.deliver(welcome(resumed=False, limits={"in_flight": 3}))

    def deliver(self, event: dict[str, Any]) -> None:
        for each in self.state.receive(event):
            if each["type"] in TERMINAL:
                self.terminal[each["id"]] = self.terminal.get(each["id"], 0) + 1
                if "position" in each:
                    self.positions.append(each["position"])

    def step(self, kind: str, number: int, flag: bool) -> None:
        getattr(self, kind)(f"r{number}", flag)
        assert self.state._in_flight == sum(request.sent for request in self.state.open.values())
        assert len(self.state._outbox) == sum(not request.sent for request in self.state.open.values())

    def submit(self, name: str, resend: bool) -> None:
        self.submitted += 1
        name = f"{name}.{self.submitted}"  # an id is never taken twice, not even that of a cancelled request
        self.known.add(name)
        self.state.submit(Request(name, {}, resend=resend))

    def pick(self, name: str) -> str | None:
        return next((known for known in self.state.open if known.startswith(name)), None)

    def cancel(self, name: str, _: bool) -> None:
        if found := self.pick(name):
            self.known.discard(found)
            self.state.cancel(found)

    def send(self, *_: Any) -> None:
        self.state.next_frame(0.0)

    def accept(self, name: str, queue: bool) -> None:
        found = self.pick(name)
        if found and self.state.open[found].sent:
            self.deliver({"type": "accepted", "id": found, "route": "queue" if queue else "direct"})

    def answer(self, name: str, twice: bool) -> None:
        found = self.pick(name)
        if found and self.state.open[found].sent:
            self.offset += 1
            for _ in range(1 + twice):
                self.deliver({"type": "result", "id": found, "position": f"e.0.{self.offset}"})

    def cut(self, name: str, resumed: bool) -> None:
        self.state.disconnected()
        self.deliver(welcome(session="s-1" if resumed else f"s-{name}", resumed=resumed, gateway=name))


@given(st.lists(STEP, max_size=60))
def test_each_request_ends_exactly_once(steps: list[tuple[str, int, bool]]) -> None:
    run = Run()
    for step in steps:
        run.step(*step)
    # The gateway keeps its word: all that is open is sent, and answered.
    while frame_or_open(run):
        pass
    assert set(run.terminal) >= run.known
    assert all(count == 1 for count in run.terminal.values())
    assert len(run.positions) == len(set(run.positions))


def frame_or_open(run: Run) -> bool:
    while run.state.next_frame(0.0) is not None:
        pass
    for name in list(run.state.open):
        run.answer(name, twice=True)
    return bool(run.state.open)
