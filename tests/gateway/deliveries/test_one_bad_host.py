"""10,000 subscriptions, a tenth of them at a host that hangs: the others don't feel it (`make test-slow`)."""

import asyncio
import logging
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.deliveries.conftest import Publish
from gateway.deliveries.receiver import Hook, Receiver, hang
from gateway.deliveries.test_slow_receivers import subscribe_many
from harness.kafka import Broker
from harness.pair import Gateway
from harness.waiting import soon

_log = logging.getLogger(__name__)
_SUBSCRIPTIONS, _ROUNDS, _SECONDS, _RATE = 10_000, 6, 8.0, 60


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_others_p99_stays_what_it_is(
    start: Callable[..., Gateway], broker: Broker, receiver: Receiver, bad_receiver: Receiver, publish: Publish,
    delivery_config: dict[str, Any],
) -> None:  # fmt: skip
    gateway = start(deliveries={"timeout_seconds": 5, "circuit_seconds": 2, "retry_seconds": [5, 60, 300]})
    sessions = [f"s{number}" for number in range(_SUBSCRIPTIONS)]
    urls = {name: (bad_receiver if number % 10 == 0 else receiver).url for number, name in enumerate(sessions)}
    subscribe_many(broker, delivery_config["deliveries"]["topic"], urls)
    await soon(lambda: gateway.metric("subscriptions") == _SUBSCRIPTIONS)
    rng = random.Random(1)
    p99s: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * _ROUNDS):
        hangs = turn % 2 == 1
        bad_receiver.behave = hang if hangs else None
        p99s[hangs].append(await one_round(receiver, publish, rng, urls, sessions))
    quiet, beside = (statistics.median(p99s[hangs]) for hangs in (False, True))
    _log.info("p99 of the others: %.1f ms, beside a host that hangs %.1f ms: %.2f times", quiet, beside, beside / quiet)
    assert gateway.metric("delivery_retries_total") > 0
    assert beside <= 1.2 * quiet


async def one_round(
    receiver: Receiver, publish: Publish, rng: random.Random, urls: dict[str, str], sessions: list[str]
) -> float:
    """Publish at a steady rate; the p99 of how long deliveries to the good host take, in milliseconds."""
    before, wanted, end = len(receiver.taken), 0, time.monotonic() + _SECONDS
    while time.monotonic() < end:
        session = rng.choice(sessions)
        wanted += urls[session] == receiver.url
        await asyncio.to_thread(publish, session, b"%f" % time.monotonic())
        await asyncio.sleep(1 / _RATE)
    await receiver.has(before + wanted)
    took: list[float] = sorted(1000 * late(hook) for hook in receiver.taken[before:])
    return took[int(len(took) * 0.99)]


def late(hook: Hook) -> float:
    """Seconds from an event's writing until it came."""
    return float(hook.time - hook.event["data"]["data"])
