"""Workflows as podpair.client and podpair.js have them: events, signals, jobs at another gateway, cancellation."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.javascript_folder import user_folder
from harness.fake_workflows import FakeWorkflows
from harness.javascript import node
from harness.pair import Gateway, token
from harness.processes import output_of
from podpair import client

pytestmark = pytest.mark.process

Start = Callable[..., Gateway]
APPROVED = {
    "stages": {
        "price": {"model": "double", "input": "request"},
        "approval": {"wait_for": "manager", "after": ["price"]},
    },
    "output": "{price: price.y, by: approval.by}",
}
WORDS = [
    ("price", "started"), ("price", "finished"), ("approval", "waiting"), ("approval", "received"), ("approval", "finished"),
]  # fmt: skip


async def approve(run: client.Run) -> list[tuple[str, str]]:
    """Follow it, and send what it waits for. Returns what it told; a busy model makes no difference."""
    told = []
    async for event in run.events():
        if event.event != "retrying" and event.attempt in (None, 1):
            told.append((event.stage, event.event))
        if event.event == "waiting":
            assert run.signal("manager", {"by": "me"})
            assert run.signal("manager", {"by": "somebody else"}), "the first counts"
    return told


async def test_a_session_follows_one_signals_it_and_has_its_result(start: Start, server: FakeWorkflows) -> None:
    server.declare("flow", APPROVED)
    async with (
        client.connect(start().url, token=token()) as session,
        session.workflow("flow", [1, 2]) as run,
    ):
        told = await asyncio.wait_for(approve(run), 60)
        result = await run.result()
    assert (result.data, result.model) == ({"price": [2, 4], "by": "me"}, "flow")
    assert told == WORDS


async def test_a_job_is_followed_and_signalled_at_another_gateway(start: Start, server: FakeWorkflows) -> None:
    server.declare("flow", APPROVED)
    first, second = start(), start()
    reference = await client.submit(first.url, "flow", [1, 2], token=token(), stream=True)
    async with client.attach(second.url, reference, token=token()) as job:
        async for event in job.events():
            if event.event == "waiting":
                break
    async with client.attach(second.url, reference, token=token()) as job:
        told = await asyncio.wait_for(approve(job), 60)
        assert (await job.result()).data == {"price": [2, 4], "by": "me"}
    assert told == WORDS


async def test_a_page_approves_what_a_service_has_submitted(
    start: Start, server: FakeWorkflows, tmp_path: Path
) -> None:
    stages = {"manager": APPROVED["stages"]["approval"] | {"after": []}}  # type: ignore[index,operator]
    server.declare("flow", {"stages": stages})
    gateway = start()
    reference = await client.submit(gateway.url, "flow", [1, 2], token=token(), stream=True)
    what = {"reference": reference, "then": "approve", "how": {"token": token()}}
    folder, command = user_folder(tmp_path, "jobs.mjs"), node()
    said = json.loads(
        await asyncio.to_thread(output_of, command, "jobs.mjs", gateway.url, json.dumps(what), cwd=folder, env={})
    )
    assert said["data"] == {"approved": True}
    assert said["seen"][0] == ["manager", "waiting"]
    assert said["seen"][-1] == ["manager", "finished"]


async def test_cancelling_it_undoes_what_it_has_done(start: Start, server: FakeWorkflows) -> None:
    undone: list[Any] = []

    async def undo(argument: Any, _: Any, __: Any) -> None:
        undone.append(argument)

    server.steps["undo"] = undo
    server.declare(
        "flow",
        {
            "stages": {
                "price": {"model": "double", "input": "request", "compensate": {"step": "undo", "input": "output.y"}},
                "approval": {"wait_for": "manager", "after": ["price"]},
            }
        },
    )
    gateway = start()
    async with client.connect(gateway.url, token=token()) as session, session.workflow("flow", [1, 2]) as run:
        async for event in run.events():
            if event.event == "waiting":
                break
        assert await run.cancel()
        assert undone == [[2, 4]]
        with pytest.raises(client.Cancelled, match="compensated: price"):
            await run.result()
