"""A gateway dies without a word while thousands of requests are queued: each still ends once at its client."""

import asyncio
from typing import Any

import pytest

import podpair.client
from harness.checking import TerminalChecker
from harness.pair import Gateway, token
from harness.waiting import until

_CLIENTS, _EACH = 50, 100
_KILL_AFTER = 500  # answers


@pytest.mark.timeout(400)
async def test_every_queued_request_ends_once(two_pairs: list[Gateway]) -> None:
    checker = TerminalChecker()
    answered = 0
    enough = asyncio.Event()

    async def client(number: int) -> None:
        nonlocal answered
        name = f"k-{number}"

        def on_event(event: dict[str, Any]) -> None:
            if event["type"] == "accepted":
                checker.accepted(name, event["id"])

        urls = [g.ws for g in two_pairs[number % 2 :] + two_pairs[: number % 2]]
        async with podpair.client.connect(
            urls, token=token(name), on_event=on_event, backoff=podpair.client.Backoff(initial=0.05, maximum=0.5)
        ) as session:

            async def ask(request: str) -> None:
                nonlocal answered
                checker.asked(name, request)
                result = await session.infer("digits", [0.0] * 64, route="queue", id=request)
                checker.ended(name, request, "result" if result.data["label"] else "empty")
                answered += 1
                if answered >= _KILL_AFTER:
                    enough.set()

            async with asyncio.TaskGroup() as asking:
                for index in range(_EACH):
                    asking.create_task(ask(f"r-{index}"))

    async with asyncio.timeout(300), asyncio.TaskGroup() as clients:
        for number in range(_CLIENTS):
            clients.create_task(client(number))
        await enough.wait()
        await asyncio.to_thread(two_pairs[0].kill)
    assert checker.faults() == []
    assert checker.outcomes == {"result": _CLIENTS * _EACH}
    # At once where the dead one had all of its own answered; the group notices its death later.
    await asyncio.to_thread(until, lambda: two_pairs[1].metric("request_partitions") == 8)
    # It was a fault: the survivor took over what the dead one had in hand.
    await asyncio.to_thread(until, lambda: two_pairs[1].metric("queue_requests_total") > _KILL_AFTER)
