"""A burst that the local model has no room for spills through Kafka, and says so; nothing is dropped."""

import asyncio
from collections import Counter
from typing import Any

import podpair.client
from harness.pair import Gateway, token


async def test_a_burst_spills_to_the_queue(start_pair: Any) -> None:
    gateway: Gateway = start_pair(limits={"max_direct_in_flight": 2})
    routes: Counter[str] = Counter()

    def on_event(event: dict[str, Any]) -> None:
        if event["type"] == "accepted":
            routes[event["route"]] += 1

    async with podpair.client.connect(gateway.ws, token=token("burst"), on_event=on_event) as session:
        stream = [session.infer("digits", [0.0] * 64) for _ in range(100)]
        results = [await answer for answer in asyncio.as_completed(stream)]
    assert [result.data["label"] for result in results] == [results[0].data["label"]] * 100
    assert routes["direct"] >= 2
    assert routes["queue"] >= 1
    assert gateway.metric("requests_total", route="queue") == routes["queue"]


async def test_a_model_that_dies_under_a_direct_request_costs_it_nothing(start_pair: Any, start_inference: Any) -> None:
    model = start_inference()
    gateway: Gateway = start_pair(inference={"url": model.url, "probe_seconds": 30})
    model.kill()  # the gateway believes it is there: nothing has asked it since
    routes: list[str] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["type"] == "accepted":
            routes.append(event["route"])
            if event["route"] == "queue":
                start_inference(model.port)

    async with podpair.client.connect(gateway.ws, token=token("dies"), on_event=on_event) as session:
        result = await session.infer("digits", [0.0] * 64)
    assert result.data["label"]
    # A refusal may be faster than `accepted` of the direct route, which goes out only where the answer does not come at once.
    assert routes in (["queue"], ["direct", "queue"])
    assert gateway.metric("spilled_total", reason="unavailable") == 1
