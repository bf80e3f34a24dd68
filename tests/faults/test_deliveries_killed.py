"""Gateways that deliver are killed at random: each event reaches its webhook, and always with the same id."""

import asyncio
import json
import os
import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.deliveries.conftest import (  # noqa: F401 - fixtures
    Publish,
    delivery_config,
    publish,
    receiver,
    subscribe,
)
from gateway.deliveries.push_service import PushService
from gateway.deliveries.receiver import Hook, Receiver
from gateway.deliveries.test_email import MailServer, subscribe_mail
from gateway.deliveries.test_email import settings as mail_settings
from gateway.deliveries.test_web_push import begin as begin_pushes
from harness.pair import Gateway
from harness.waiting import soon

Start = Callable[..., Gateway]
_SESSIONS = 4  # the numbers that are published go to them in turn
_EACH = 25  # numbers at a time, for each of them


class DeliveryChecker:
    """Hears what was published and what a receiver took; `faults` says what must not have been."""

    def __init__(self) -> None:
        self._published: set[int] = set()
        self._ids: dict[int, set[str]] = defaultdict(set)
        self._of_id: dict[str, set[int]] = defaultdict(set)
        self.order: list[int] = []

    def published(self, number: int) -> None:
        self._published.add(number)

    def taken(self, number: int, message_id: str) -> None:
        self._ids[number].add(message_id)
        self._of_id[message_id].add(number)
        self.order.append(number)

    @property
    def missing(self) -> set[int]:
        return self._published - self._ids.keys()

    def faults(self, *, ordered: bool = False) -> list[str]:
        found = [f"{number} did not come" for number in sorted(self.missing)]
        found += [f"{number} came with {len(ids)} ids" for number, ids in sorted(self._ids.items()) if len(ids) > 1]
        found += [f"{name} is the id of {sorted(numbers)}" for name, numbers in self._of_id.items() if len(numbers) > 1]
        found += [f"{number} was never published" for number in sorted(self._ids.keys() - self._published)]
        if ordered:
            for session in range(_SESSIONS):
                first = [number for number in dict.fromkeys(self.order) if number % _SESSIONS == session]
                found += [f"{b} came before {a}" for b, a in pairwise(first) if a < b]
        return found


def test_the_checker_sees_what_is_wrong() -> None:
    def checker(*taken: tuple[int, str]) -> list[str]:
        made = DeliveryChecker()
        for number in (0, 4, 8):
            made.published(number)
        for number, name in taken:
            made.taken(number, name)
        return made.faults(ordered=True)

    assert checker((0, "a"), (4, "b"), (4, "b"), (8, "c")) == []
    assert checker((0, "a"), (8, "c")) == ["4 did not come"]
    assert checker((0, "a"), (4, "b"), (4, "x"), (8, "c")) == ["4 came with 2 ids"]
    assert checker((0, "a"), (4, "a"), (8, "c")) == ["a is the id of [0, 4]"]
    assert checker((0, "a"), (4, "b"), (8, "c"), (3, "d")) == ["3 was never published"]
    assert checker((0, "a"), (8, "c"), (4, "b")) == ["8 came before 4"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("ordered", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_each_event_is_delivered_with_one_id(
    start_pair: Start, delivery_config: dict[str, Any], http: aiohttp.ClientSession,  # noqa: F811
    receiver: Receiver, publish: Publish, ordered: bool,  # noqa: F811
) -> None:  # fmt: skip
    rng = random.Random(int(os.environ.get("PODPAIR_FAULT_SEED", "1")))
    checker = DeliveryChecker()

    async def behave(hook: Hook) -> web.Response | None:
        await asyncio.sleep(rng.uniform(0, 0.3))  # so that many are in hand at any time
        if rng.random() < 0.1:
            return web.Response(status=rng.choice((500, 503, 429)))
        checker.taken(hook.event["data"]["data"], hook.id)
        return None

    receiver.behave = behave
    settings = delivery_config["deliveries"] | {"retry_seconds": [0.1, 0.2, 0.4], "circuit_failures": 20, "per_host": 2}
    start = partial(start_pair, deliveries=settings)
    gateways = [start(), start()]
    await subscribe(http, gateways[0], receiver, scope="subject", ordered=ordered)
    await kill_while_delivering(gateways, start, publish, checker, rng)
    assert checker.faults(ordered=ordered) == []


async def kill_while_delivering(
    gateways: list[Gateway],
    start: Start,
    publish: Publish,  # noqa: F811
    checker: DeliveryChecker,
    rng: random.Random,
    collect: Callable[[], object] = lambda: None,
) -> None:
    """Publish three times, with a gateway killed in the middle of each, until all has come. collect: tells the checker."""

    def taken() -> int:
        collect()
        return len(checker.order)

    for turn in range(3):
        for session in range(_SESSIONS):
            batch = [_SESSIONS * (_EACH * turn + one) + session for one in range(_EACH)]
            for one in batch:
                checker.published(one)
            await asyncio.to_thread(publish, f"ann/{session}", *(b"%d" % one for one in batch))
        # Half of them: much is in hand then, and commits have passed what waits, if they may.
        half = taken() + _SESSIONS * _EACH // 2
        await soon(lambda enough=half: taken() >= enough)
        victim = rng.randrange(2)
        await asyncio.to_thread(gateways[victim].kill)
        gateways[victim] = await asyncio.to_thread(start)
    await soon(lambda: taken() and not checker.missing, lambda: checker.faults())


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_each_event_is_mailed_with_one_message_id(
    start_pair: Start, delivery_config: dict[str, Any], http: aiohttp.ClientSession, publish: Publish,  # noqa: F811
) -> None:  # fmt: skip
    """By a real SMTP server; what was under way at a kill may come again, with the id that it had."""
    rng, checker, mail = random.Random(int(os.environ.get("PODPAIR_FAULT_SEED", "1"))), DeliveryChecker(), MailServer()
    await mail.start()
    shorter = {"retry_seconds": [0.1, 0.2, 0.4], "circuit_failures": 20, "per_host": 2}
    settings = delivery_config["deliveries"] | mail_settings(mail) | shorter
    start = partial(start_pair, deliveries=settings)

    def collect() -> None:
        for _, _, message in mail.messages[len(checker.order) :]:
            checker.taken(int(message["Subject"]), message["Message-ID"])
            mail.replies["DATA"] = ["451 later"] * (rng.random() < 0.1)

    gateways = [start(), start()]
    await subscribe_mail(http, gateways[0], scope="subject", email={"subject": "{{data.data}}"})
    await kill_while_delivering(gateways, start, publish, checker, rng, collect)
    assert checker.faults() == []
    await mail.stop()


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_each_event_is_pushed_to_a_browser_under_one_topic(
    start_pair: Start, delivery_config: dict[str, Any], http: aiohttp.ClientSession, publish: Publish,  # noqa: F811
    tmp_path: Path,
) -> None:  # fmt: skip
    """A push service replaces a message by one with its topic, so that what comes again is shown once."""
    rng, checker, service = (
        random.Random(int(os.environ.get("PODPAIR_FAULT_SEED", "1"))),
        DeliveryChecker(),
        PushService(),
    )
    runner = await service.start()
    file = tmp_path / "vapid.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    web_push = {"private_key_file": str(file), "contact": "mailto:ops@example.com"}
    shorter = {"retry_seconds": [0.1, 0.2, 0.4], "circuit_failures": 20, "per_host": 2}
    start = partial(start_pair, deliveries=delivery_config["deliveries"] | {"web_push": web_push} | shorter)
    gateways = [start(), start()]
    await begin_pushes(http, gateways[0], service, "ann", scope="subject")
    browser = service.browsers["ann"]

    def collect() -> None:
        seen = len(checker.order)
        for text, headers in zip(browser.messages[seen:], browser.headers[seen:], strict=False):
            checker.taken(json.loads(text)["data"]["data"], headers["Topic"])
            service.answers += [503] * (rng.random() < 0.1)

    await kill_while_delivering(gateways, start, publish, checker, rng, collect)
    assert (checker.faults(), service.refusals) == ([], [])
    await runner.cleanup()


@pytest.fixture
async def http() -> Any:
    async with aiohttp.ClientSession() as session:
        yield session
