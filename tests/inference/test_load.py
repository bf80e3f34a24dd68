"""Full queues, deadlines, and clients that go away: the application with a runtime that waits until it is let."""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.waiting import soon
from podpair.inference.http1.requests import Request
from podpair.inference.runtime.load_turns import LoadTurns

Begin = Callable[..., Any]


async def test_requests_that_queue_while_a_batch_runs_are_the_next_batch(application: Begin) -> None:
    app = await application(batching={"max_items": 8})
    app.gate.open.clear()
    first = app.ask(1.0)
    await app.running()
    others = [app.ask(float(i)) for i in range(10)]
    await app.queued(10)
    app.gate.open.set()
    answers = await asyncio.gather(first, *others)
    assert [answer[1]["outputs"][0]["data"] for answer in answers] == [[2.0], *[[i + 1.0] for i in range(10)]]
    assert app.gate.runs == [1, 8, 2]
    assert app.metric("inference_batch_size_count", model="gate") == 3
    assert app.metric("inference_request_duration_seconds_count", model="gate") == 11


async def test_the_priority_of_a_stream_counts_where_the_model_answers_at_once(application: Begin) -> None:
    app = await application(batching={"max_items": 8})
    app.gate.open.clear()
    first = app.ask(1.0)
    await app.running()
    normal = app.ask(1.0, 2.0)
    await app.queued(2)

    async def stream(priority: str) -> int:
        path, headers = "/v2/models/gate/generate_stream", {"podpair-priority": priority}
        async with app.client.post(path, json={"x": 3.0}, headers=headers) as answer:
            return int(answer.status)

    low, high = asyncio.create_task(stream("low")), asyncio.create_task(stream("high"))
    await app.queued(4)
    app.gate.open.set()
    assert [(await task)[0] for task in (first, normal)] + [await low, await high] == [200] * 4
    assert app.gate.runs == [1, 1, 2, 1]


async def test_a_full_queue_refuses_with_429_and_when_to_come_again(application: Begin) -> None:
    app = await application(batching={"queue_size": 3})
    app.gate.open.clear()
    running = app.ask(1.0)
    await app.running()
    queued = app.ask(1.0, 2.0)
    await app.queued(2)
    assert app.metric("inference_queue_depth", model="gate") == 2
    assert app.metric("inference_stage_queue_depth", model="gate", stage="queue") == 2
    assert app.metric("inference_stage_queue_depth", model="gate", stage="runtime") == 1
    status, document, headers = await app.ask(1.0, 2.0)
    assert status == 429
    assert "the queue of model gate is full (2 of 3 rows)" in document["error"]
    assert int(headers["Retry-After"]) >= 1
    assert int(headers["podpair-retry-after-ms"]) >= 1
    assert app.metric("inference_errors_total", reason="overloaded") == 1
    fits = app.ask(5.0)
    await app.queued(3)
    app.gate.open.set()
    assert [(await task)[0] for task in (running, queued, fits)] == [200, 200, 200]


async def test_each_stage_tells_how_long_it_took(application: Begin) -> None:
    app = await application()
    for _ in range(3):
        assert (await app.ask(1.0))[0] == 200
    for stage in ("ingress", "queue", "runtime", "postprocess", "egress"):
        assert app.metric("inference_stage_duration_seconds_count", model="gate", stage=stage) == 3
        assert app.metric("inference_stage_queue_depth", model="gate", stage=stage) in (0, None)


async def test_bytes_of_large_bodies_are_counted_while_they_are_held(application: Begin) -> None:
    app = await application(batching={"queue_size": 20_000})
    app.gate.open.clear()
    task = app.ask(*range(20_000))
    await app.running()
    assert app.metric("inference_pending_bytes") > 60_000
    app.gate.open.set()
    assert (await task)[0] == 200
    assert app.metric("inference_pending_bytes") == 0


async def test_a_request_leaves_the_memory_when_it_ends_not_when_cycles_are_collected(application: Begin) -> None:
    def requests() -> int:
        return sum(isinstance(found, Request) for found in gc.get_objects())

    app = await application()
    gc.collect()
    before = requests()
    gc.disable()
    try:
        assert [(await app.ask(1.0))[0] for _ in range(3)] == [200] * 3
        app.gate.open.clear()
        running = app.ask(1.0)
        await app.running()
        gone = app.ask(1.0)
        await app.queued(1)
        gone.cancel()
        await app.queued(0)
        app.gate.open.set()
        assert (await running)[0] == 200
        await soon(lambda: requests() <= before)  # the thread that ran it lets go of it after its answer
    finally:
        gc.enable()


async def test_a_deadline_that_passes_in_the_queue_is_504_at_once_and_never_runs(application: Begin) -> None:
    app = await application()
    app.gate.open.clear()
    running = app.ask(1.0)
    await app.running()
    late = app.ask(7.0, 7.0, headers={"podpair-deadline": str(int(time.time() * 1000) + 50)})
    in_time = app.ask(5.0, headers={"podpair-deadline": str(int(time.time() * 1000) + 60_000)})
    # The runtime is still busy: the answer doesn't wait for it.
    assert (await asyncio.wait_for(late, 60))[0] == 504
    app.gate.open.set()
    assert [(await task)[0] for task in (running, in_time)] == [200, 200]
    assert app.gate.runs == [1, 1]
    assert app.metric("inference_errors_total", reason="deadline_exceeded") == 1


async def test_the_request_of_a_client_that_has_gone_leaves_the_queue(application: Begin) -> None:
    app = await application()
    app.gate.open.clear()
    running = app.ask(1.0)
    await app.running()
    gone, stays = app.ask(1.0, 1.0, 1.0), app.ask(2.0)
    await app.queued(4)
    gone.cancel()
    await app.queued(1)
    app.gate.open.set()
    assert [(await task)[0] for task in (running, stays)] == [200, 200]
    assert app.gate.runs == [1, 1]


async def test_one_bad_request_does_not_fail_its_batch(application: Begin) -> None:
    app = await application(batching={"max_items": 8})
    app.gate.open.clear()
    running = app.ask(1.0)
    await app.running()
    tasks = [app.ask(1.0), app.ask(-1.0), app.ask(3.0)]
    await app.queued(3)
    app.gate.open.set()
    answers = await asyncio.gather(running, *tasks)
    assert [answer[0] for answer in answers] == [200, 200, 500, 200]
    assert "a negative number" in answers[2][1]["error"]
    # The batch of three, its first, the other two, and each of them.
    assert app.gate.runs == [1, 3, 1, 2, 1, 1]
    assert app.metric("inference_errors_total", reason="model") == 1


async def test_with_two_instances_two_batches_run_at_the_same_time(application: Begin) -> None:
    app = await application(runtime={"instances": 2}, batching={"max_items": 2, "max_delay_ms": 10_000})
    app.gate.open.clear()
    tasks = [app.ask(1.0)]
    await app.running()
    tasks.append(app.ask(2.0))
    await app.queued(1)
    # One runner is free, but alone this request would wait ten seconds for company.
    tasks.append(app.ask(3.0))
    await app.running()
    assert app.gate.runs == [1, 2]
    app.gate.open.set()
    assert [(await task)[0] for task in tasks] == [200, 200, 200]


async def test_a_stop_finishes_what_was_taken_and_takes_nothing_new(application: Begin) -> None:
    app = await application()
    app.gate.open.clear()
    tasks = [app.ask(1.0)]
    await app.running()
    tasks.append(app.ask(2.0))
    await app.queued(1)
    stopping = asyncio.create_task(app.catalog.stop(20))
    await asyncio.sleep(0)
    status, document, headers = await app.ask(3.0)
    assert (status, document["error"], headers["Retry-After"]) == (503, "the container is stopping", "1")
    async with app.client.get("/v2/health/ready") as ready, app.client.get("/v2/health/live") as live:
        assert (ready.status, live.status) == (503, 200)
    app.gate.open.set()
    assert [(await task)[0] for task in tasks] == [200, 200]
    await asyncio.wait_for(stopping, 60)


async def test_a_stop_is_bounded_and_what_is_left_is_told(application: Begin) -> None:
    app = await application()
    app.gate.open.clear()
    running = app.ask(1.0)
    await app.running()
    queued = app.ask(2.0)
    await app.queued(1)
    await asyncio.wait_for(app.catalog.stop(0.05), 60)
    assert (await asyncio.wait_for(queued, 60))[0] == 503
    app.gate.open.set()
    assert (await asyncio.wait_for(running, 60))[0] == 200


async def test_before_the_models_are_loaded_it_is_alive_but_not_ready(application: Begin) -> None:
    app = await application()
    app.catalog._turns = LoadTurns(["gate"])
    app.catalog._models.clear()
    app.catalog.ready = False
    async with app.client.get("/v2/health/ready") as ready, app.client.get("/v2/health/live") as live:
        assert (ready.status, live.status) == (503, 200)
    status, document, _ = await app.ask(1.0)
    assert (status, document["error"]) == (503, "model gate is being loaded")


@pytest.mark.parametrize("size", [1, 3, 64])
async def test_a_lone_request_never_waits_for_company(application: Begin, size: int) -> None:
    app = await application(batching={"max_items": 64, "max_delay_ms": 10_000}, runtime={"instances": 4})
    assert (await asyncio.wait_for(app.ask(*range(size)), 9))[0] == 200
