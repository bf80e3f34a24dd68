"""Whatever is mixed, each caller gets exactly its own answer: the scheduler with real threads, under hypothesis."""

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podpair.inference.core.errors import (
    DeadlineExceededError,
    InferenceError,
    ModelEndedError,
    ModelError,
    OverloadedError,
    UnavailableError,
)
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.run_times import RunTimes
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.batch_executor import BatchExecutor, BatchItem
from podpair.inference.runtime.request_queue import FutureSink
from podpair.inference.runtime.scheduler import Scheduler
from podpair.inference.runtime.warmup import LARGEST


class Doubling:
    """y = 2x, and the sum of each row; fails as a whole if any value is `BAD`."""

    BAD = -1.0
    platform = "test"
    predicts = inline = True
    takes_parameters = False
    calls_models = False
    instances = 1
    inputs = (TensorSpec("x", "FP32", (-1, -1)),)
    outputs = (TensorSpec("y", "FP32", (-1, -1)), TensorSpec("sum", "FP32", (-1,)))

    def __init__(self) -> None:
        self.largest = 0
        # (rows, columns) of each run.
        self.shapes: list[tuple[int, ...]] = []

    def run(self, arrays: Sequence[Array], parameters: Any = ()) -> list[Array]:
        (x,) = arrays
        self.largest = max(self.largest, len(x))
        self.shapes.append(x.shape)
        if (x == self.BAD).any():
            raise RuntimeError("a bad row")
        return [2 * x, x.sum(axis=1)]

    def close(self) -> None:
        pass


@dataclass
class Ask:
    """One request of a scenario."""

    rows: int
    columns: int
    fate: str
    # Turns of the loop before it is sent.
    after: int


ASKS = st.lists(
    st.builds(
        Ask,
        rows=st.integers(1, 9),
        columns=st.integers(1, 3),
        fate=st.sampled_from(["good", "good", "good", "bad", "cancelled", "late"]),
        after=st.integers(0, 6),
    ),
    min_size=1,
    max_size=25,
)


def scheduler(runtime: Doubling, inline: bool, /, **config: object) -> Scheduler:
    model = ModelConfig.model_validate(config)
    runtime.instances = model.runtime.instances or 1
    times = RunTimes(1.0 if inline else 0.0)
    for size in range(9):
        times.seed(2**size, 0.0)
    signature = Signature(model, runtime.inputs, runtime.outputs, "test")
    return Scheduler("test", runtime, signature, model, Metrics().for_model("test"), times)


async def send(sut: Scheduler, number: int, ask: Ask) -> str:
    """What has become of a request; fails if the answer isn't its own."""
    for _ in range(ask.after):
        await asyncio.sleep(0)
    x = np.full((ask.rows, ask.columns), number + 1, np.float32)
    if ask.fate == "bad":
        x[-1, -1] = Doubling.BAD
    deadline = time.monotonic() - 1 if ask.fate == "late" else time.monotonic() + 60
    try:
        y, total = await sut.submit([x], deadline)
    except InferenceError as error:
        return error.kind
    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(total, x.sum(axis=1))
    return "good"


# derandomize: the same scenarios in every run; what a change breaks, it breaks each time.
@settings(
    max_examples=2 * settings().max_examples,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    asks=ASKS,
    max_items=st.none() | st.integers(1, 16),
    preferred=st.lists(st.integers(1, 16), max_size=3),
    queue_size=st.sampled_from([12, 1000]),
    max_delay_ms=st.sampled_from([0.0, 0.5, 2.0]),
    instances=st.integers(1, 3),
    inline=st.booleans(),
)
async def test_each_caller_gets_its_own_answer(
    asks: list[Ask],
    max_items: int | None,
    preferred: list[int],
    queue_size: int,
    max_delay_ms: float,
    instances: int,
    inline: bool,
) -> None:
    runtime = Doubling()
    batching = {
        "max_items": max_items,
        "max_delay_ms": max_delay_ms,
        "queue_size": queue_size,
        "preferred": preferred,
    }
    sut = scheduler(runtime, inline, batching=batching, runtime={"instances": instances})
    tasks = [asyncio.create_task(send(sut, number, ask)) for number, ask in enumerate(asks)]
    for task, ask in zip(tasks, asks, strict=True):
        if ask.fate == "cancelled":
            await asyncio.sleep(0)
            task.cancel()
    outcomes = []
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 20)
        outcomes.append("cancelled" if task.cancelled() else task.result())
    expected = {"good": {"good"}, "bad": {"model"}, "late": {"deadline_exceeded"}, "cancelled": {"cancelled", "good"}}
    if queue_size < 1000:
        # A full queue refuses; it never loses, and never answers with another's rows.
        expected = {fate: found | {"overloaded"} for fate, found in expected.items()}
    assert all(got in expected[ask.fate] for got, ask in zip(outcomes, asks, strict=True)), (outcomes, asks)
    assert runtime.largest <= max(max_items or LARGEST, *(ask.rows for ask in asks))
    assert sut.depth == 0
    await asyncio.wait_for(sut.drain(5), 60)


async def test_one_bad_request_fails_alone_and_the_others_of_its_batch_are_answered() -> None:
    sut = scheduler(Doubling(), True)
    fates = ["good", "bad", "good", "bad", "good"]
    outcomes = await asyncio.gather(*(send(sut, i, Ask(1, 2, fate, 0)) for i, fate in enumerate(fates)))
    assert outcomes == ["good", "model", "good", "model", "good"]


async def test_an_answer_with_the_wrong_number_of_rows_is_the_model_s_error() -> None:
    class Short(Doubling):
        def run(self, arrays: Sequence[Array], parameters: Any = ()) -> list[Array]:
            return [output[1:] for output in super().run(arrays)]

    sut = scheduler(Short(), True)
    with pytest.raises(ModelError, match=r"'y' as FP32 \[1, 2\] for 2 rows"):
        await sut.submit([np.ones((2, 2), np.float32)])


async def test_a_full_queue_says_when_to_come_again_and_late_requests_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed, time=time.time)
    monkeypatch.setattr("podpair.inference.runtime.scheduler.time", clock)
    sut = scheduler(Doubling(), False, batching={"queue_size": 4})
    deadline = time.monotonic() + 60
    first = [asyncio.create_task(sut.submit([np.ones((2, 1), np.float32)], deadline)) for _ in range(2)]
    # All in one turn of the loop: nothing has been taken out of the queue yet.
    await asyncio.sleep(0)
    sink = FutureSink(asyncio.get_running_loop())
    with pytest.raises(OverloadedError) as refused:
        sut.enqueue([np.ones((1, 1), np.float32)], None, {}, sink)
    assert math.isfinite(refused.value.retry_after)
    assert refused.value.retry_after > 0
    passed = 120.0
    sut.enqueue([np.ones((1, 1), np.float32)], None, {}, sink)
    for task in first:
        with pytest.raises(DeadlineExceededError):
            await task
    assert (await sink.future)[0].tolist() == [[2.0]]


async def test_requests_of_different_shapes_never_share_a_run() -> None:
    runtime = Doubling()
    sut = scheduler(runtime, True)
    await asyncio.gather(*(send(sut, i, Ask(1, 1 + i % 2, "good", 0)) for i in range(6)))
    assert sorted(runtime.shapes) == [(3, 1), (3, 2)]


class Gated(Doubling):
    """Runs wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = queue.Queue[int]()
        self.let_go = threading.Semaphore(0)

    def run(self, arrays: Sequence[Array], parameters: Any = ()) -> list[Array]:
        self.begun.put(int(arrays[0][0, 0]))
        assert self.let_go.acquire(timeout=30)
        return super().run(arrays, parameters)


async def test_the_next_run_does_not_wait_for_the_loop() -> None:
    runtime = Gated()
    sut = scheduler(runtime, False, batching={"max_items": 1})
    first = asyncio.create_task(sut.submit([np.full((1, 1), 1, np.float32)]))
    assert await asyncio.to_thread(runtime.begun.get, timeout=30) == 1
    second = asyncio.create_task(sut.submit([np.full((1, 1), 2, np.float32)]))
    while not sut.depth:
        await asyncio.sleep(0)
    runtime.let_go.release()
    # The loop stands still here.
    assert runtime.begun.get(timeout=30) == 2
    assert sut.running == 1
    assert not first.done()
    runtime.let_go.release()
    assert [(await answer)[0].item() for answer in (first, second)] == [2.0, 4.0]
    await sut.drain(30)
    assert sut.running == sut.depth == 0


class Needy(Doubling):
    """Fails as its neighbour does."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def run(self, arrays: Sequence[Array], parameters: Any = ()) -> list[Array]:
        self.shapes.append(arrays[0].shape)
        raise self.error


@pytest.mark.parametrize(
    "error",
    [UnavailableError("away"), OverloadedError("busy", 2.5), DeadlineExceededError("late"), ModelEndedError("dead")],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_fails_for_what_its_model_needs_is_not_run_in_halves(error: Exception) -> None:
    runtime = Needy(error)
    signature = Signature(ModelConfig(), runtime.inputs, runtime.outputs, "m")
    items = [BatchItem([np.zeros((1, 1), np.float32)], {}, 1) for _ in range(8)]
    outcome = BatchExecutor("m", runtime, signature, time.monotonic).run(items)
    assert (list(outcome.results), runtime.shapes) == ([error] * 8, [(8, 1)])
