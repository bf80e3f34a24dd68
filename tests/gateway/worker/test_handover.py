"""What is said to a workflow whose request is in hand, and has not begun: it is kept until somebody knows the instance."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.engine_world import Record, World
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.record_headers import signal_headers
from podpair.gateway.worker.request import State


class Workflows:
    """Notes what it hears, in order, and has it done at once."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def begin(self, _: int, __: Any, request: Any, ___: Any, hooks: Any) -> Any:
        self.heard.append(f"begin {request.id}")
        asyncio.get_running_loop().call_soon(hooks.on_begun)
        return SimpleNamespace(cancel=lambda: None)

    def signal(self, _: int, signal: Any, done: Any) -> None:
        self.heard.append(f"signal {signal.id}")
        done()


class Asking(World):
    """An engine whose model is described when it is told to be."""

    def __init__(self, ordering: str) -> None:
        super().__init__(ordering)
        self.workflows, self.known = Workflows(), asyncio.Event()
        self.fault: Fault | None = None
        self.engine._handover._workflows = cast("Any", self.workflows)
        model = cast("Any", self.model)
        model.described = lambda _: SimpleNamespace(workflow=1) if self.known.is_set() and not self.fault else None
        model.describe = self._describe

    async def _describe(self, _: str) -> None:
        await self.known.wait()
        if self.fault is not None:
            raise self.fault

    def signal(self, partition: int, name: str) -> None:
        self._offset += 1
        headers = signal_headers(request_id=name, session="s", name="ok", source="test", now=0.0)
        self.begin(partition, Record(self._offset, b"s", b"1", headers))

    async def finish(self) -> None:
        for _ in range(5):
            await self.settle()
            self.broker.acknowledge(self.broker.under_way)


@pytest.mark.parametrize("ordering", ["none", "session"])
async def test_a_message_waits_until_its_request_has_begun(ordering: str) -> None:
    world = Asking(ordering)
    world.request(0, "s", "first")
    world.request(0, "s", "second")
    world.signal(0, "second")
    await world.settle()
    assert world.workflows.heard == []
    world.known.set()
    await world.finish()
    assert world.workflows.heard[-1] == "signal second"
    assert sorted(world.workflows.heard) == ["begin first", "begin second", "signal second"]
    assert {request.state for request in world.begun} == {State.DONE}
    assert world.gate.room == 3


async def test_a_message_to_a_request_that_cannot_begin_is_finished() -> None:
    world = Asking("none")
    world.request(0, "s", "r")
    world.signal(0, "r")
    world.fault = Fault(Code.NOT_FOUND, "there is none")
    world.known.set()
    await world.finish()
    assert {request.state for request in world.begun} == {State.DONE}


async def test_a_message_goes_with_its_request_to_the_next_member() -> None:
    world = Asking("none")
    world.request(0, "s", "r")
    world.signal(0, "r")
    world.signal(1, "r")  # a copy: who has its partition has no instance
    await world.settle()
    assert world.workflows.heard == ["signal r"]
    world.engine.drop([next(iter(world.begun))])
    await world.finish()
    assert world.workflows.heard == ["signal r"]
    assert [request.state for request in world.begun] == [State.DROPPED, State.DROPPED, State.DONE]
