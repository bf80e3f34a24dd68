"""Gateways are killed and RabbitMQ is restarted under load: each request is answered, and its caller has one answer."""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from harness.amqp_caller import AmqpCaller, Answer, ReplyChecker
from harness.pair import Gateway, Inference
from harness.rabbitmq import RabbitMQ
from harness.waiting import soon

pytestmark = pytest.mark.process
QUEUE, PREFETCH = "under.fire", 32
VARIANTS = 16


@pytest.fixture
def own_rabbitmq() -> Iterator[RabbitMQ]:
    running = RabbitMQ()
    yield running
    running.stop()


@pytest.fixture
def labels(inference: Inference) -> list[int]:
    """What the model says to each of the questions, asked of itself."""
    data = [float(number) for number in range(VARIANTS) for _ in range(64)]
    body = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [VARIANTS, 64], "data": data}]}
    asked = urllib.request.Request(f"{inference.url}/v2/models/digits/infer", json.dumps(body).encode())
    with urllib.request.urlopen(asked, timeout=30) as answer:
        outputs = {output["name"]: output["data"] for output in json.loads(answer.read())["outputs"]}
    return list(outputs["label"])


@pytest.fixture
async def caller(own_rabbitmq: RabbitMQ, labels: list[int]) -> AsyncIterator[AmqpCaller]:
    made = AmqpCaller(
        own_rabbitmq.url,
        QUEUE,
        lambda number: {"data": [float(number % VARIANTS)] * 64},
        lambda number, body: body["data"]["label"] == labels[number % VARIANTS],
    )
    ready = asyncio.Event()
    listening = asyncio.create_task(made.listen(ready))
    await ready.wait()
    yield made
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


class Fleet:
    """Gateways that take from the queue, and die."""

    def __init__(
        self, start: Callable[..., Gateway], config: dict[str, Any], checker: ReplyChecker, rng: random.Random
    ) -> None:
        self._start = start
        self._config = config
        self._checker = checker
        self._rng = rng
        self.running: list[Gateway] = []

    async def grow(self) -> None:
        """Start one more."""
        gateway = await asyncio.to_thread(self._start, self._config)
        await asyncio.to_thread(gateway.wait_ready)
        self.running.append(gateway)

    async def kill_one(self) -> None:
        """Kill any of them, and start another."""
        gateway = self.running.pop(self._rng.randrange(len(self.running)))
        began = time.monotonic()
        await asyncio.to_thread(gateway.kill)
        self._checker.fault(began, time.monotonic(), PREFETCH)
        await self.grow()


async def under_fire(
    rabbitmq: RabbitMQ, caller: AmqpCaller, fleet: Fleet, requests: int, rounds: list[str], rng: random.Random
) -> None:
    """Ask `requests` in as many parts as there are rounds; each round kills or restarts something while its part is worked on."""
    checker = caller.checker
    part = requests // len(rounds)
    for index, what in enumerate(rounds):
        asking = asyncio.create_task(caller.ask(range(index * part, (index + 1) * part), 50))
        await asyncio.sleep(rng.uniform(0.0, 0.4))
        if what == "kill":
            await fleet.kill_one()
        else:
            began = time.monotonic()
            await asyncio.to_thread(rabbitmq.crash if what == "crash" else rabbitmq.stop_serving)
            checker.fault(began, time.monotonic(), PREFETCH * len(fleet.running))
            await asyncio.to_thread(rabbitmq.start)
        await asking
    await soon(lambda: checker.complete, lambda: checker.faults()[:3], timeout=120)


@pytest.mark.parametrize(
    ("requests", "rounds"),
    [
        (1_500, ["kill", "stop", "kill"]),
        pytest.param(
            20_000, [*["kill"] * 6, "stop", *["kill"] * 4, "crash", *["kill"] * 6, "stop"], marks=pytest.mark.slow
        ),
    ],
    ids=["some", "20,000"],
)
async def test_none_is_lost_and_each_caller_has_one_answer(
    own_rabbitmq: RabbitMQ,
    inference: Inference,
    caller: AmqpCaller,
    start_gateway: Callable[..., Gateway],
    requests: int,
    rounds: list[str],
) -> None:
    seed = int(os.environ.get("PODPAIR_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    rng = random.Random(seed)
    config = {
        "kafka": {"embedded": True},
        "inference": {"url": inference.url},
        "requests": {"source": "amqp"},
        "amqp": {"url": own_rabbitmq.url, "queue": QUEUE, "prefetch": PREFETCH},
    }
    fleet = Fleet(start_gateway, config, caller.checker, rng)
    for _ in range(2):
        await fleet.grow()
    requests -= requests % len(rounds)
    await under_fire(own_rabbitmq, caller, fleet, requests, rounds, rng)
    # Nothing is left, and nothing is answered any more.
    await soon(
        lambda: all(g.metric("amqp_queue_messages") == g.metric("amqp_in_flight") == 0 for g in fleet.running),
        lambda: [(g.metric("amqp_queue_messages"), g.metric("amqp_in_flight")) for g in fleet.running],
    )
    assert caller.checker.faults() == [], f"PODPAIR_FAULT_SEED={seed}"
    print(f"{requests} requests, {caller.checker.repeats} answers came again")  # noqa: T201


@pytest.mark.slow
async def test_a_broker_without_memory_holds_answers_up_and_that_is_reported(
    own_rabbitmq: RabbitMQ, inference: Inference, caller: AmqpCaller, start_gateway: Callable[..., Gateway]
) -> None:
    config = {
        "kafka": {"embedded": True},
        "inference": {"url": inference.url},
        "requests": {"source": "amqp"},
        "amqp": {"url": own_rabbitmq.url, "queue": QUEUE, "prefetch": 8},
    }
    gateway = await asyncio.to_thread(start_gateway, config)
    await asyncio.to_thread(gateway.wait_ready)
    # Paused, so that the requests are there before the alarm, which stops their publisher, too.
    inference.process.send_signal(signal.SIGSTOP)
    try:
        await caller.ask(range(20), 20)
        await asyncio.to_thread(own_rabbitmq.control, "set_vm_memory_high_watermark", "0.00001")
    finally:
        inference.process.send_signal(signal.SIGCONT)
    status = lambda: gateway.get("/readyz")  # noqa: E731
    await soon(lambda: "has confirmed nothing" in status()[1], status)
    assert status()[0] == 503
    assert [record for record in gateway.log if "was blocked by" in record["message"]]
    await asyncio.to_thread(own_rabbitmq.control, "set_vm_memory_high_watermark", "absolute", "1GB")
    await soon(lambda: caller.checker.complete and status()[0] == 200, status)
    assert caller.checker.faults() == []
    assert caller.checker.repeats == 0


ONCE = Answer("a", 1.0, False, True)


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ([ONCE], None),
        ([], "no answer: 1: [0]"),
        ([ONCE, ONCE._replace(redelivered=True)], None),
        ([ONCE, ONCE._replace(at=20.0)], None),  # it died in between
        ([ONCE, ONCE._replace(at=2.0)], "0: answered twice, and nothing had died"),
        ([ONCE, ONCE._replace(reply_id="b", at=20.0)], "0: 2 different answers"),
        ([ONCE._replace(right=False)], "0: not its own answer"),
        ([ONCE, *[ONCE._replace(at=20.0)] * 3], "3 answers came again: 2 were in hand when something died"),
    ],
)
def test_the_checker_sees_planted_faults(answers: list[Answer], fault: str | None) -> None:
    checker = ReplyChecker()
    checker.asked(0)
    checker.fault(10.0, 10.0, 2)
    for answer in answers:
        checker.answered(0, answer)
    assert checker.faults() == ([fault] if fault else [])
