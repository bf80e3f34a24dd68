"""The engine between a model that answers as it likes and a broker that acknowledges when it likes.

Whatever happens: each record of the requests topic that is not dropped is delivered once, with one terminal record at most;
what is in hand and the room that is given back are as many as the records; and with `ordering: session` a request is asked
only after the one before it of its session was delivered.
"""

import asyncio
import gc
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine_world import Pending, Record, World
from podpair.common.gateway_config.kafka import Requests
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.worker.request import QueuedRequest, State

OUTCOMES: list[bytes | Exception] = [
    b'"data":{"y":[1]}',
    b'"data":{"y":[1]}',
    b'"data":{"y":[1]}',
    Fault(Code.INVALID, "not for this model"),
    Failed("the model failed"),
    Busy(0.0001),
    Unavailable("gone", midway=True),
    ValueError("a bug"),
]

STEP = st.one_of(
    st.tuples(st.just("request"), st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("request"), st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("invalid"), st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("outcome"), st.integers(0, len(OUTCOMES) - 1), st.just(""), st.just(0)),
    st.tuples(st.just("outcome"), st.integers(0, len(OUTCOMES) - 1), st.just(""), st.just(0)),
    st.tuples(st.just("acknowledge"), st.integers(1, 3), st.just(""), st.just(0)),
    st.tuples(st.just("ready"), st.integers(0, 1), st.just(""), st.just(0)),
    st.tuples(st.just("revoke"), st.integers(0, 1), st.just(""), st.just(0)),
)


@pytest.mark.parametrize("ordering", ["none", "session"])
@given(steps=st.lists(STEP, max_size=50), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_each_request_is_delivered_once_or_dropped(ordering: str, steps: list[tuple[Any, ...]], seed: int) -> None:
    asyncio.run(_any_steps(ordering, steps, random.Random(seed)))


async def _any_steps(ordering: str, steps: list[tuple[Any, ...]], rng: random.Random) -> None:
    world = World(ordering)
    for kind, number, session, name in steps:
        match kind:
            case "request" | "invalid":
                world.request(number, session, f"r{name}", valid=kind == "request")
            case "cancel":
                world.cancel(number, session, f"r{name}")
            case "outcome":
                world.model.answer(rng, OUTCOMES[number])
            case "acknowledge":
                world.broker.acknowledge(rng.sample(world.broker.under_way, min(number, len(world.broker.under_way))))
            case "ready":
                world.ready.set(bool(number))
            case "revoke":
                state = world.partitions[number]
                state.revoked = True
                world.engine.drop_partitions([state])
        await world.settle()
        check(world, ordering)
    await _finish(world)
    check(world, ordering)
    for request in world.begun:
        assert request.state in (State.DONE, State.DROPPED)
        assert (request.state is State.DROPPED) <= request.partition.revoked
    assert not world.engine._in_hand
    assert not world.engine._running
    assert not world.engine._order
    assert world.gate.room == len(world.begun)


async def _finish(world: World) -> None:
    """The model is there again, and the broker acknowledges all."""
    world.ready.set(True)
    for _ in range(400):
        if not world.engine._in_hand:
            return
        world.model.answer(random.Random(0), OUTCOMES[0])
        world.broker.acknowledge(world.broker.under_way)
        await asyncio.sleep(0.0002)  # back-offs are shorter
        await world.settle()


def check(world: World, ordering: str) -> None:
    """What holds at any time."""
    assert all(count == 1 for count in world.broker.completed.values())
    assert len(world.broker.delivered) == len(set(world.broker.delivered))
    for state in world.partitions:
        in_hand = [r for r in world.begun if r.partition is state and r.state is not State.DONE]
        assert state.offsets.unfinished == len(in_hand)
    for request in world.broker.completed:
        terminals = [r for r in request.records if r.topic == "results"]
        assert len(terminals) <= 1
        assert len(terminals) == 1 or request.outcome in ("cancellation", "invalid_record")
    running = [r.key for r in world.engine._in_hand if r.state is State.ASKED]
    assert len(running) == len(set(running))
    if ordering == "session":
        by_session: dict[Any, list[QueuedRequest]] = {}
        for request in world.begun:
            if request.outcome != "cancellation":
                by_session.setdefault((request.partition, request.record.key()), []).append(request)
        for requests in by_session.values():
            earlier = [r.state for r in requests]
            for request in reversed(requests):
                earlier.pop()
                assert request.state is not State.ASKED or set(earlier) <= {State.DONE, State.DROPPED}, earlier


async def test_a_repeated_request_waits_for_the_answer_and_gets_the_same() -> None:
    world = World("none")
    world.request(0, "s", "r")
    world.request(1, "s", "r")
    assert world.model.asked == ["r"]
    world.model.answer(random.Random(0), b'"data":{"y":[7]}')
    world.broker.acknowledge(world.broker.under_way)
    assert [(r.outcome, r.records[0].value) for r in world.broker.delivered] == [
        ("result", b'{"data":{"y":[7]}}'),
        ("repeated", b'{"data":{"y":[7]}}'),
    ]


async def test_a_cancelled_request_is_not_asked_for_its_repetition() -> None:
    world = World("none")
    world.request(0, "s", "r")
    world.request(1, "s", "r")
    world.cancel(0, "s", "r")
    assert world.model.asked == ["r"]
    assert world.model.pending[0].cancelled
    assert world.cancelled == [("s", "r")]
    assert sorted(r.outcome for r in world.broker.under_way) == ["cancellation", "cancelled", "cancelled"]


async def test_a_partition_that_goes_away_waits_for_what_is_asked_but_not_for_another_attempt() -> None:
    world = World("none")
    world.engine._retrier._config = Requests.model_validate({"backoff_seconds": 60})
    world.request(0, "s", "sleeps")
    world.model.answer(random.Random(0), Failed("no"))
    await world.settle()
    world.request(0, "s", "runs")
    draining = asyncio.create_task(world.engine.drain(world.partitions[:1], 60))
    await world.settle()
    assert [r.key[1] for r in world.engine._in_hand] == ["runs"]
    assert not draining.done()
    world.model.answer(random.Random(0), OUTCOMES[0])
    assert not draining.done()
    world.broker.acknowledge(world.broker.under_way)
    await draining
    assert world.gate.room == 2


async def test_one_that_is_cancelled_while_it_waits_for_its_turn_lets_nobody_pass() -> None:
    world = World("session")
    for name in ("first", "cancelled", "last"):
        world.request(0, "s", name)
    world.cancel(0, "s", "cancelled")
    world.broker.acknowledge(world.broker.under_way)
    assert world.model.asked == ["first"]
    world.model.answer(random.Random(0), OUTCOMES[0])
    assert world.model.asked == ["first"]
    world.broker.acknowledge(world.broker.under_way)
    assert world.model.asked == ["first", "last"]


async def test_an_error_that_nobody_expects_costs_one_request_its_answer_and_no_other() -> None:
    world = World("none")
    submit = world.model.submit

    def broken(request: Any, *arguments: Any, **more: Any) -> Pending:
        if request.id == "bad":
            raise KeyError("a bug")
        return submit(request, *arguments, **more)

    world.model.submit = broken  # type: ignore[method-assign]
    for name in ("first", "bad", "last"):
        world.request(0, "s", name)
    assert world.model.asked == ["first", "last"]
    (answer,) = world.broker.under_way
    assert (answer.key[1], answer.outcome) == ("bad", "internal")
    world.broker.acknowledge([answer])
    assert world.gate.room == 1


async def test_a_request_that_can_not_even_be_ended_is_left_behind_and_its_room_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World("session")

    def bury(*_: Any) -> list[Any]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.engine._dead_letters, "bury", bury)
    world.request(0, "s", "invalid", valid=False)
    world.request(0, "s", "behind it")
    assert world.model.asked == ["behind it"]
    world.model.answer(random.Random(0), Failed("no"))
    for _ in range(20):
        await asyncio.sleep(0.001)  # back-offs are shorter
        world.model.answer(random.Random(0), Failed("no"))
        await world.settle()
    assert not world.engine._in_hand
    assert world.gate.room == 2
    assert world.partitions[0].offsets.unfinished == 2, "they are done again after a restart"


async def test_a_successor_that_can_not_be_started_keeps_nothing_of_its_batch_from_being_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World("session")
    for session, name in (("a", "1"), ("b", "2"), ("a", "3")):
        world.request(0, session, name)
    for _ in range(2):
        world.model.answer(random.Random(0), OUTCOMES[0])

    def broken(*_: Any, **__: Any) -> Pending:
        raise KeyError("a bug")

    monkeypatch.setattr(world.model, "submit", broken)
    world.broker.acknowledge(world.broker.under_way)
    assert {request.key[1] for request in world.broker.delivered} == {"1", "2"}
    assert [request.key[1] for request in world.broker.under_way] == ["3"]
    assert world.gate.room == 2


async def test_a_cancellation_that_can_not_be_passed_on_is_finished_all_the_same() -> None:
    world = World("none")

    def broken(*_: str) -> None:
        raise RuntimeError("a bug")

    world.engine._on_cancelled = broken
    world.cancel(0, "s", "r")
    assert [request.outcome for request in world.broker.under_way] == ["cancellation"]


@pytest.mark.parametrize("outcome", [OUTCOMES[0], OUTCOMES[3]])
async def test_a_request_that_is_done_leaves_no_cycle(outcome: bytes | Exception) -> None:
    """Its record would stay in memory until cycles are collected: a third more memory under load, and twice the p99."""
    world = World("none")
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        world.request(0, "a", "r")
        world.model.answer(random.Random(0), outcome)
        await world.settle()
        world.broker.acknowledge(world.broker.under_way)
        await world.settle()
        assert world.begun.pop().state is State.DONE
        world.broker.completed.clear()
        world.broker.delivered.clear()
        gc.collect()
        assert not [one for one in gc.garbage if isinstance(one, QueuedRequest)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_a_record_whose_headers_the_client_can_not_read_is_a_dead_letter_and_costs_no_other() -> None:
    world = World("none")

    class Unreadable(Record):
        """As confluent-kafka has it where a name isn't UTF-8: asked once more it gives what can't be looked at."""

        asked = 0

        def headers(self) -> Any:
            self.asked += 1
            assert self.asked == 1
            raise SystemError("not text")

    record = Unreadable(1, b"s", b'{"data":[1]}', [])
    world.begin(0, record)
    world.request(1, "s", "b")
    assert record.asked == 1
    assert world.model.asked == ["b"]
    ended = next(iter(world.broker.completed))
    assert ended.outcome == "invalid_record"
    assert [(letter.topic, letter.key, letter.value) for letter in ended.records] == [
        ("requests.dlq", b"s", b'{"data":[1]}')
    ]
    assert dict(ended.records[0].headers or ())["dead_reason"].startswith(b"its headers can't be read")
