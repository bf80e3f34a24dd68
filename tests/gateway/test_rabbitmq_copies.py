"""A message that the broker gives again is answered once here, whatever ended in between, and never acknowledged too early."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from harness.engine_world import Latency, Model, Ready
from podpair.common.gateway_config.model import Config
from podpair.gateway.amqp.answers import AnswerOutlets, Answers
from podpair.gateway.amqp.consumer import Link
from podpair.gateway.amqp.engine import MessageEngine
from podpair.gateway.amqp.publisher import Outcome
from podpair.gateway.core.amqp_messages import Message, Outbound
from podpair.gateway.core.model_errors import Failed
from podpair.gateway.metrics import Metrics
from podpair.gateway.tracing import Telemetry
from podpair.gateway.upstream.factory import ModelAccess

BODY = b'"data":{"y":1},"timing":{}'


class Channel:
    """What was acknowledged and rejected."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.rejected: list[int] = []

    async def basic_ack(self, tag: int, *, wait: bool) -> None:
        self.acked.append(tag)

    async def basic_reject(self, tag: int, *, requeue: bool, wait: bool) -> None:
        assert not requeue
        self.rejected.append(tag)


class Publisher:
    """Confirms what it is told to."""

    def __init__(self) -> None:
        self.pending: list[tuple[Outbound, Callable[[], bool], asyncio.Future[Outcome]]] = []
        self.published: list[Outbound] = []

    async def publish(self, message: Outbound, wanted: Callable[[], bool]) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.pending.append((message, wanted, future))
        return await future

    async def settle(self, outcome: Outcome = "confirmed") -> None:
        """Give all that waits this outcome."""
        await turn()
        for message, _, future in self.pending:
            if outcome == "confirmed":
                self.published.append(message)
            future.set_result(outcome)
        self.pending.clear()
        await turn()


async def turn() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


class World:
    def __init__(self, **amqp: Any) -> None:
        config = Config.model_validate(
            {"auth": {"disabled": True}, "amqp": {"queue": "q", **amqp}, "requests": {"backoff_seconds": 0.0001}}
        )
        self.model, self.publisher, self.metrics = Model(), Publisher(), Metrics()
        access = ModelAccess(cast("Any", None), cast("Any", self.model), cast("Any", Ready()), cast("Any", Latency()))
        outlets = AnswerOutlets(self.publisher, cast("Any", None), cast("Any", None))
        answers = Answers(outlets, self.metrics, "gw", "q", config.amqp.dead_letter_exchange)
        self.engine = MessageEngine(config, access, answers, cast("Any", None), Telemetry(self.metrics, None))

    def link(self) -> tuple[Link, Channel]:
        channel = Channel()
        return Link(cast("Any", channel)), channel

    async def answer(self, outcome: bytes | Exception = BODY) -> None:
        """Have the model answer all that it was asked."""
        for pending in [pending for pending in self.model.pending if not pending.cancelled]:
            pending.callback([(pending, outcome)])
        self.model.pending.clear()
        await turn()

    def end(self, link: Link) -> None:
        link.end()
        self.engine.drop(link)


def message(name: str = "m1", *, redelivered: bool = False, model: str | None = "m") -> Message:
    headers = {"model": model} if model else {}
    return Message(b'{"data":[1]}', headers, message_id=name, reply_to="r", redelivered=redelivered)


async def test_it_is_acknowledged_after_its_answer_is_confirmed() -> None:
    world = World()
    link, channel = world.link()
    world.engine.take(link, 1, message())
    await world.answer()
    assert channel.acked == []
    await world.publisher.settle()
    assert channel.acked == [1]
    assert world.engine.in_hand == 0


async def test_one_whose_end_cannot_be_reported_takes_no_place_for_good() -> None:
    world = World()
    link, channel = world.link()
    world.engine.take(link, 1, message())
    await world.answer()
    world.publisher.pending.pop()[2].set_exception(TypeError("nobody expects this"))
    await turn()
    assert (channel.acked, channel.rejected) == ([], [1])
    assert world.engine.in_hand == 0


async def test_a_copy_of_what_was_answered_is_only_acknowledged() -> None:
    world = World()
    (first, _), (second, channel) = world.link(), world.link()
    world.engine.take(first, 1, message())
    await world.answer()
    first.end()  # the acknowledgement is lost
    await world.publisher.settle()
    world.engine.take(second, 1, message(redelivered=True))
    await turn()
    assert (channel.acked, world.model.asked, len(world.publisher.published)) == ([1], ["m1"], 1)
    world.engine.take(second, 2, message())  # the same id, but another message
    await world.answer()
    await world.publisher.settle()
    assert (channel.acked, len(world.publisher.published)) == ([1, 2], 2)


async def test_another_message_with_the_id_of_one_that_was_acknowledged_is_answered() -> None:
    world = World()
    link, channel = world.link()
    world.engine.take(link, 1, message())
    await world.answer()
    await world.publisher.settle()
    # It comes again from a gateway that died; what was acknowledged on this link, which lives, doesn't come again.
    world.engine.take(link, 2, message(redelivered=True))
    await world.answer()
    await turn()
    world.engine.take(link, 3, message(redelivered=True))  # nor is it what is being answered
    await world.answer()
    await world.publisher.settle()
    await world.publisher.settle()
    assert (channel.acked, len(world.publisher.published)) == ([1, 2, 3], 3)


async def test_a_copy_that_comes_while_the_answer_is_on_its_way_waits_for_that() -> None:
    world = World()
    (first, _), (second, channel) = world.link(), world.link()
    world.engine.take(first, 1, message())
    await world.answer()
    await turn()
    world.end(first)
    assert world.engine.in_hand == 1  # a gateway that stops waits for it
    world.engine.take(second, 1, message(redelivered=True))
    await turn()
    assert channel.acked == []
    await world.publisher.settle()
    assert (channel.acked, world.model.asked, len(world.publisher.published)) == ([1], ["m1"], 1)
    assert world.engine.in_hand == 0


async def test_if_that_answer_did_not_get_away_the_copy_is_asked_for() -> None:
    world = World()
    (first, _), (second, channel) = world.link(), world.link()
    world.engine.take(first, 1, message())
    await world.answer()
    await turn()
    assert world.publisher.pending[0][1]()
    world.end(first)
    assert not world.publisher.pending[0][1]()
    world.engine.take(second, 1, message(redelivered=True))
    await world.publisher.settle("unwanted")
    assert world.model.asked == ["m1", "m1"]
    await world.answer()
    await world.publisher.settle()
    assert (channel.acked, len(world.publisher.published)) == ([1], 1)


async def test_what_the_model_has_when_the_link_ends_is_dropped() -> None:
    world = World()
    (first, old), (second, channel) = world.link(), world.link()
    world.engine.take(first, 1, message())
    (pending,) = world.model.pending
    world.end(first)
    assert pending.cancelled
    world.engine.take(second, 1, message(redelivered=True))
    await world.answer()
    await world.publisher.settle()
    assert (old.acked, channel.acked, len(world.publisher.published)) == ([], [1], 1)


async def test_what_waits_for_its_next_attempt_goes_back_when_the_gateway_stops() -> None:
    world = World()
    world.engine._retrier._config = world.engine._retrier._config.model_copy(update={"backoff_seconds": 60.0})
    link, channel = world.link()
    world.engine.take(link, 1, message())
    await world.answer(Failed("no"))
    assert world.engine.in_hand == 1
    await world.engine.drain(10.0)
    await turn()
    assert (world.engine.in_hand, channel.acked, world.publisher.pending) == (0, [], [])


async def test_what_may_not_begin_yet_goes_back_when_the_gateway_stops() -> None:
    world = World(celery_tasks={"t": "m"})
    link, channel = world.link()
    soon = datetime.now(UTC) + timedelta(minutes=10)
    headers = {"task": "t", "id": "1", "eta": soon.isoformat()}
    world.engine.take(link, 1, Message(b"[[[1]],{},{}]", headers, content_type="application/json", reply_to="r"))
    await turn()
    assert (world.engine.in_hand, world.model.asked) == (1, [])
    await world.engine.drain(10.0)
    await turn()
    assert (world.engine.in_hand, channel.acked, world.model.asked) == (0, [], [])


@pytest.mark.parametrize("outcome", ["unroutable", "refused"])
async def test_an_answer_that_cant_be_delivered_ends_it(outcome: Outcome) -> None:
    world = World()
    link, channel = world.link()
    world.engine.take(link, 1, message())
    await world.answer()
    await world.publisher.settle(outcome)
    assert channel.acked == [1]


async def test_what_cant_be_kept_with_its_reason_is_rejected_and_its_sender_notified() -> None:
    world = World(dead_letters=False)
    link, channel = world.link()
    world.engine.take(link, 1, message(model=None))
    await world.publisher.settle()
    assert (channel.acked, channel.rejected) == ([], [1])
    assert [one.type for one in world.publisher.published] == ["dev.podpair.error"]


async def test_a_dead_letter_comes_before_the_acknowledgement() -> None:
    world = World()
    link, channel = world.link()
    world.engine.take(link, 1, message(model=None))
    await turn()
    assert [one.exchange for one, _, _ in world.publisher.pending] == ["q.dlx"]
    await world.publisher.settle()
    assert channel.acked == []
    await world.publisher.settle()
    assert (channel.acked, channel.rejected) == ([1], [])
