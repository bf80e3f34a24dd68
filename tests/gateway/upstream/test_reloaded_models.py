"""A model that is exchanged while the gateway knows it: what a call shows counts at once, not at the next description.

The description in the catalog lasts for 15 seconds; each of these ends long before.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.upstream.conftest import PATIENCE, Asker, RowsServer
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.upstream import client as upstream_client

Begin = Callable[..., Awaitable[Asker]]


async def test_requests_that_shared_a_call_to_another_version_are_asked_alone(
    rows_server: RowsServer, asker: Begin
) -> None:
    """The new version scales by the call: what it answers to several clients together is nobody's."""
    inference = await asker()
    assert (await inference.ask("a", [1.0, 2.0]))["data"] == {"y": 3.0}
    rows_server.reload("rows", like="scaled", version="2")
    rows_server.open.clear()
    first = inference.ask("first", [1.0, 1.0])
    await rows_server.had(2)
    tasks = [inference.ask(f"r{n}", [float(10**n), 0.0]) for n in range(4)]
    await asyncio.sleep(0)
    rows_server.open.set()
    answers = [(await task) for task in (first, *tasks)]
    assert [answer["data"]["y"] for answer in answers] == pytest.approx([2.0, 1.0, 10.0, 100.0, 1000.0])
    assert {answer["model_version"] for answer in answers} == {"2"}
    described = rows_server.described
    # Known from now on: nothing is asked twice, nor shared.
    before = len(rows_server.calls)
    await asyncio.gather(*(inference.ask(f"s{n}", [1.0, float(n)]) for n in range(3)))
    assert (rows_server.rows[before:], rows_server.described) == ([1, 1, 1], described)


async def test_shorthand_is_written_out_as_the_model_is_now(
    rows_server: RowsServer, asker: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = await asker()
    monkeypatch.setattr(upstream_client, "_DOUBT", 0.0)
    assert (await inference.ask("a", [1.0, 2.0], "single"))["data"] == {"y": 3.0}
    rows_server.reload("single", width=3)
    assert (await inference.ask("b", [1.0, 2.0, 4.0], "single"))["data"] == {"y": 7.0}
    monkeypatch.setattr(upstream_client, "_DOUBT", PATIENCE)
    # What is wrong under this description, too, is asked about once a second at most.
    described = rows_server.described
    for _ in range(5):
        with pytest.raises(Fault) as error:
            await inference.ask("c", [1.0], "single")
        assert error.value.code is Code.INVALID
    assert rows_server.described == described


async def test_a_stream_is_asked_for_as_the_model_is_now(
    rows_server: RowsServer, asker: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = await asker()
    monkeypatch.setattr(upstream_client, "_DOUBT", 0.0)
    for name in ("x", "z"):
        rows_server.reload("streams", takes=name)
        parts = []

        async def on_part(_: int, data: bytes, parts: list[bytes] = parts) -> None:
            parts.append(data)

        await inference.inference.stream(InferenceRequest("s", "streams", data=b"[1, 2]"), on_part)
        assert parts == [b"1", b"2"]


async def test_a_model_that_is_gone_is_known_no_more(
    rows_server: RowsServer, asker: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = await asker()
    monkeypatch.setattr(upstream_client, "_DOUBT", 0.0)
    await inference.ask("a", [1.0, 2.0], "single")
    assert "single" in inference.inference.models
    rows_server.gone.add("single")
    with pytest.raises(Fault) as error:
        await inference.ask("b", [1.0, 2.0], "single")
    assert error.value.code is Code.NOT_FOUND
    assert "single" not in inference.inference.models


async def test_a_server_that_names_versions_otherwise_in_answers_is_asked_about_that_once(
    rows_server: RowsServer, asker: Begin
) -> None:
    inference = await asker()
    rows_server.answers_as["rows"] = "2026-11-28"
    for n in range(3):
        assert (await inference.ask(f"r{n}", [1.0, float(n)]))["data"] == {"y": 1.0 + n}
    assert rows_server.described == 2
    first = inference.ask("first", [1.0, 1.0])
    await asyncio.gather(first, *(inference.ask(f"s{n}", [2.0, float(n)]) for n in range(4)))
    assert max(rows_server.rows) > 1  # its requests share calls all the same
    assert rows_server.described == 2
