"""What waits for a slow client is bounded; what gives way is progress, and never an answer."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.outbox import Outbox, Overflow
from podpair.gateway.core.records import Event, Kind, control_event, event_of_record, result_event

ROOM = 10_000


def partial(request: str, data: object, offset: int, seq: int = 0) -> Event:
    headers = [("ce_type", b"dev.podpair.partial"), ("ce_id", request.encode()), ("seq", b"%d" % seq)]
    return event_of_record(json.dumps(data).encode(), headers, offset, b"e.0.")


def push(offset: int, size: int = 100) -> Event:
    return event_of_record(json.dumps("x" * size).encode(), None, offset, b"e.0.")


def answer(request: str, offset: int = -1, size: int = 100) -> Event:
    return result_event(request, b'"data":"%b"' % (b"x" * size))._replace(offset=offset)


def add_all(outbox: Outbox, events: list[Event]) -> None:
    for event in events:
        outbox.add(event)


def drain(outbox: Outbox) -> list[Event]:
    taken: list[Event] = []
    while outbox:
        taken += outbox.pop(1000)
    return taken


def test_what_fits_comes_out_as_it_went_in() -> None:
    outbox = Outbox(ROOM)
    events = [push(1), partial("a", "x", 2), partial("a", "y", 3), answer("a"), control_event("gap", b"{}")]
    for event in events:
        outbox.add(event)
    assert drain(outbox) == events
    assert outbox.size == 0
    assert not outbox


def test_at_least_one_event_is_taken_whatever_its_size() -> None:
    outbox = Outbox(ROOM)
    outbox.add(push(1, 5000))
    outbox.add(push(2))
    assert [e.offset for e in outbox.pop(10)] == [1]


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (["Hel", "lo ", "\u00fc\n\"w\\"], "Hello \u00fc\n\"w\\"),
        ([[1, 2], [], [3, "x"]], [1, 2, 3, "x"]),
        ([[], []], []),
        ([{"done": 1}, {"done": 2}], {"done": 2}),
        ([0.1, 0.2], 0.2),
        (["text", 5], 5),
        (["text", ["list"]], ["list"]),
        ([["list"], "text"], "text"),
        ([None, None], None),
    ],
)  # fmt: skip
def test_partials_of_one_request_become_one_where_room_is_short(parts: list[object], joined: object) -> None:
    outbox = Outbox(ROOM)
    for n, data in enumerate(parts):
        outbox.add(partial("a", data, n, seq=n))
    outbox.add(partial("b", "other", 50))
    before = outbox.size
    outbox._merge_partials()
    assert outbox.size < before
    assert outbox.merged == len(parts) - 1
    first, second = (json.loads(e.payload) for e in drain(outbox))
    last = len(parts) - 1
    since = {"from": 0} if {type(part) for part in parts} in ({str}, {list}) else {}
    assert first == {"type": "partial", "id": "a", "seq": last, "data": joined, "position": f"e.0.{last}"} | since
    assert second["id"] == "b"


def test_only_adjacent_partials_are_merged() -> None:
    outbox = Outbox(ROOM)
    for event in (partial("a", "1", 1), partial("b", "2", 2), partial("a", "3", 3), push(4), partial("a", "5", 5)):
        outbox.add(event)
    outbox._merge_partials()
    assert [e.offset for e in drain(outbox)] == [1, 2, 3, 4, 5]


def test_first_merge_then_drop_then_overflow() -> None:
    outbox = Outbox(ROOM)
    for n in range(200):  # enough to be too much, one by one
        outbox.add(partial("a", "x", n))
    assert outbox.merged > 0
    assert outbox.dropped == 0
    for n in range(200):  # of two requests in turns nothing can be merged
        outbox.add(partial("ab"[n % 2], "x" * 100, 200 + n))
    assert outbox.dropped > 0
    with pytest.raises(Overflow):
        add_all(outbox, [push(400 + n) for n in range(1000)])
    assert not any(e.kind is Kind.PARTIAL for e in drain(outbox))


def test_what_is_in_kafka_is_not_handed_out_again() -> None:
    outbox = Outbox(ROOM)
    for event in (answer("direct"), answer("queued", offset=7), push(8), control_event("gap", b"{}")):
        outbox.add(event)
    assert [e.id for e in outbox.unsent()] == ["direct"]
    assert not outbox
    assert outbox.size == 0


kinds = st.sampled_from(["partial", "push", "answer", "record"])


def make(kind: str, n: int, size: int) -> Event:
    match kind:
        case "partial":
            return partial("ab"[n % 2], "x" * size, n)
        case "push":
            return push(n, size)
    return answer(f"r{n}", -1 if kind == "answer" else n, size)


@given(st.lists(st.tuples(kinds, st.integers(0, 3000)), max_size=60), st.integers(0, 3))
def test_answers_are_never_dropped_and_the_buffer_is_bounded(asked: list[tuple[str, int]], taken: int) -> None:
    outbox = Outbox(ROOM)
    put: list[Event] = []
    out: list[Event] = []
    overflowed = False
    for n, (kind, size) in enumerate(asked):
        event = make(kind, n, size)
        put.append(event)
        try:
            outbox.add(event)
        except Overflow:
            overflowed = True
        assert overflowed or outbox.size <= ROOM
        if n % 4 < taken and not overflowed:
            out += outbox.pop(500)
    left = drain(outbox) if not overflowed else []
    lost = outbox.unsent()
    everything = out + left + lost
    needed = [e for e in put if e.kind is not Kind.PARTIAL and (not overflowed or (e.kind, e.offset) == (2, -1))]
    assert [e for e in everything if e in needed] == needed


def test_events_without_content_are_bounded_too() -> None:
    outbox = Outbox(ROOM)
    with pytest.raises(Overflow):
        add_all(outbox, [Event(Kind.PUSH, "push", None, b"", n) for n in range(ROOM)])


@pytest.mark.parametrize("kind", ["push", "answer", "partial"])
def test_a_burst_to_a_slow_client_takes_time_in_proportion(kind: str) -> None:
    """Ten thousand more events after the buffer is full: a look through all of them for each would take minutes."""
    outbox = Outbox(1 << 20)
    for n in range(5000):
        outbox.add(push(n, 20))
    start = time.process_time()
    for n in range(10_000):
        try:
            outbox.add(make(kind, n, 150))
        except Overflow:
            continue
    assert time.process_time() - start < 2
