"""Streams beyond `runtime.max_streams` wait a moment for a place, and have it as soon as another one ends."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from podpair.inference.core.batching import PRIORITIES
from podpair.inference.core.errors import DeadlineExceededError, OverloadedError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.runtime import streams
from podpair.inference.runtime.streams import Streams

IN, OUT = TensorSpec("input", "BYTES", (-1,)), TensorSpec("output", "BYTES", (-1,))


class Echo:
    """A runtime whose streams end when they are let."""

    streams = True

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.release = asyncio.Semaphore(0)

    async def stream(self, arrays: Sequence[Array], parameters: Mapping[str, Any]) -> AsyncGenerator[list[Array], None]:
        self.begun.append(arrays[0][0])
        await self.release.acquire()
        yield list(arrays)


def limited(runtime: Echo, limit: int = 1, waiting: int = 8) -> Streams:
    return Streams("m", runtime, Signature(ModelConfig(), [IN], [OUT], "m"), limit, waiting)


async def read(
    found: Streams, text: bytes, deadline: float | None = None, priority: str = "normal"
) -> list[list[Array]]:
    request = [np.array([text], object)]
    return [chunk async for chunk in found.stream(request, {}, deadline, None, PRIORITIES[priority])]


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, those that wait for a place get it in these tests."""
    monkeypatch.setattr(streams, "_WAIT", 20.0)


async def test_places_are_handed_on_by_priority_and_age() -> None:
    runtime = Echo()
    found = limited(runtime)
    order = [(b"first", "low"), (b"low", "low"), (b"b", "normal"), (b"c", "normal"), (b"high", "high")]
    async with asyncio.TaskGroup() as tasks:
        for text, priority in order:
            tasks.create_task(read(found, text, None, priority))
            await turns()
        assert (found.open, found.waiting, runtime.begun) == (1, 4, [b"first"])
        for _ in order:
            runtime.release.release()
            await turns()
    assert runtime.begun == [b"first", b"high", b"b", b"c", b"low"]
    assert (found.open, found.waiting) == (0, 0)


async def test_no_more_wait_than_the_queue_holds() -> None:
    runtime = Echo()
    found = limited(runtime, waiting=1)
    async with asyncio.TaskGroup() as tasks:
        for text in (b"a", b"b"):
            tasks.create_task(read(found, text))
            await turns()
        with pytest.raises(OverloadedError, match=r"has 1 streams open \(runtime.max_streams\)"):
            await read(found, b"c")
        runtime.release.release()
        runtime.release.release()


async def test_who_has_waited_long_enough_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_WAIT", 0.01)
    runtime = Echo()
    found = limited(runtime)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read(found, b"a"))
        await turns()
        with pytest.raises(OverloadedError):
            await read(found, b"b")
        runtime.release.release()
    assert (found.open, found.waiting, runtime.begun) == (0, 0, [b"a"])


async def test_those_that_gave_up_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_WAIT", 0.001)
    runtime = Echo()
    found = limited(runtime)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read(found, b"a"))
        await turns()
        for _ in range(10):
            with pytest.raises(OverloadedError):
                await read(found, b"b")
        assert not found._waiting
        runtime.release.release()


async def test_when_to_come_again_follows_how_long_streams_take() -> None:
    runtime = Echo()
    found = limited(runtime, waiting=0)
    for _ in range(30):
        runtime.release.release()
        await read(found, b"short")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read(found, b"a"))
        await turns()
        with pytest.raises(OverloadedError) as refused:
            await read(found, b"b")
        runtime.release.release()
    assert 0.05 <= refused.value.retry_after < 1.0


async def test_a_deadline_that_passes_while_it_waits_ends_a_stream() -> None:
    runtime = Echo()
    found = limited(runtime)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read(found, b"a"))
        await turns()
        with pytest.raises(DeadlineExceededError, match="waited for its place"):
            await read(found, b"b", time.monotonic() + 0.01)
        runtime.release.release()
    assert found.open == 0


@pytest.mark.parametrize("handed", [False, True], ids=["waiting", "just handed its place"])
async def test_a_place_is_not_lost_with_who_stops_waiting(monkeypatch: pytest.MonkeyPatch, handed: bool) -> None:
    runtime = Echo()
    found = limited(runtime)
    hand_on = found._hand_on

    def then_cancel() -> None:
        hand_on()
        gone.cancel()

    first = asyncio.create_task(read(found, b"a"))
    await turns()
    gone, after = asyncio.create_task(read(found, b"gone")), asyncio.create_task(read(found, b"after"))
    await turns()
    if handed:
        monkeypatch.setattr(found, "_hand_on", then_cancel)
    else:
        gone.cancel()
        await turns()
    for _ in range(2):
        runtime.release.release()
    await asyncio.gather(first, after)
    assert gone.cancelled()
    assert runtime.begun == [b"a", b"after"]
    assert (found.open, found.waiting) == (0, 0)
