"""The model dies under load: partitions pause, readiness fails, nothing is lost, and all answers come when it is back."""

import asyncio
from typing import Any

import podpair.client
from harness.checking import TerminalChecker
from harness.pair import Gateway, Inference, token
from harness.waiting import until

_CLIENTS, _EACH = 20, 60
_KILL_AFTER = 300  # answers


async def test_nothing_is_lost_while_the_model_is_away(start_pair: Any, start_inference: Any) -> None:
    model: Inference = start_inference()
    gateway: Gateway = start_pair(inference={"url": model.url})
    checker = TerminalChecker()
    answered = 0
    enough = asyncio.Event()

    async def client(number: int) -> None:
        name = f"m-{number}"

        def on_event(event: dict[str, Any]) -> None:
            if event["type"] == "accepted":
                checker.accepted(name, event["id"])

        async with podpair.client.connect(gateway.ws, token=token(name), on_event=on_event) as session:
            for index in range(_EACH):
                nonlocal answered
                route = ("auto", "queue")[index % 2]
                checker.asked(name, f"r-{index}")
                result = await session.infer("digits", [0.5] * 64, route=route, id=f"r-{index}")
                checker.ended(name, f"r-{index}", "result" if result.data["label"] else "empty")
                answered += 1
                if answered >= _KILL_AFTER:
                    enough.set()

    def kill_and_look() -> None:
        model.kill()
        until(lambda: gateway.metric("requests_paused") == 1)
        until(lambda: gateway.get("/readyz")[0] == 503)
        assert gateway.metric("request_partitions") == 8  # paused, not left

    async with asyncio.timeout(150), asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(client(number)) for number in range(_CLIENTS)]
        await enough.wait()
        await asyncio.to_thread(kill_and_look)
        before = answered
        assert before < _CLIENTS * _EACH, "the model died after the load"
        await asyncio.to_thread(start_inference, model.port)
        await asyncio.gather(*clients)
    assert checker.faults() == []
    assert checker.outcomes == {"result": _CLIENTS * _EACH}
    await asyncio.to_thread(until, lambda: gateway.metric("requests_paused") == 0)
    await asyncio.to_thread(gateway.wait_ready)

    def failed() -> float:
        return gateway.metric("queue_requests_total") - gateway.metric("queue_requests_total", outcome="result")

    # The last of them are counted a moment after their clients have the answers.
    await asyncio.to_thread(until, lambda: failed() == 0, failed)
