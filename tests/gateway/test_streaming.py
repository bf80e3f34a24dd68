"""An answer in parts, on either route: each part once and in order, the whole at the end, whoever is slow or away meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import podpair.client
from gateway.conftest import Client, Connect, resuming, small
from harness.pair import Gateway, Inference, token
from harness.waiting import soon

pytestmark = pytest.mark.process

MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="module")
def chat() -> Iterator[Inference]:
    running = Inference(models=MODELS)
    yield running
    running.stop()


@pytest.fixture(scope="module", params=["rest", "grpc"])
def gateway(
    request: pytest.FixtureRequest, chat: Inference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    url = chat.url if request.param == "rest" else chat.grpc
    running = Gateway(tmp_path_factory.mktemp("chat"), {"kafka": {"embedded": True}, "inference": {"url": url}})
    running.wait_ready()
    yield running
    running.stop()


async def prompt(client: Client, request_id: str, text: str, **members: Any) -> None:
    await client.infer(request_id, model="chat", data=text, stream=True, **members)


async def parts(client: Client, request_id: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The partials of a request, and its terminal event."""
    found = []
    while True:
        event = await client.next()
        if event.get("id") != request_id:
            continue
        if event["type"] == "partial":
            found.append(event)
        elif event["type"] in ("result", "error"):
            return found, event


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_parts_come_in_order_and_the_result_has_the_whole(gateway: Gateway, connect: Connect, route: str) -> None:
    client = await connect(gateway)
    await prompt(client, route, "to be or not", route=route, parameters={"end": "|"})
    assert (await client.next()) == {"type": "accepted", "id": route, "route": route}
    found, result = await parts(client, route)
    assert [(part["seq"], part["data"]) for part in found] == [(0, "to|"), (1, "be|"), (2, "or|"), (3, "not|")]
    assert ["position" in part for part in found] == [route == "queue"] * 4
    assert (result["type"], result["data"], result["parts"]) == ("result", {"output": "to|be|or|not|"}, 4)
    assert (result["model"], result["model_version"]) == ("chat", "1")


async def test_without_stream_the_answer_comes_at_once(gateway: Gateway, connect: Connect) -> None:
    client = await connect(gateway)
    await client.infer("r", model="chat", data="to be")
    assert (await client.answer("r"))["data"] == {"output": "TO BE"}


async def test_tensors_can_be_asked_for_in_parts_too(gateway: Gateway, connect: Connect) -> None:
    client = await connect(gateway)
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["to be"]}
    await client.infer("r", model="chat", data=None, inputs=[tensor], stream=True)
    found, result = await parts(client, "r")
    assert [part["data"] for part in found] == ["to ", "be "]
    assert result["data"] == {"output": "to be "}
    await client.infer(
        "two", model="chat", data=None, inputs=[tensor | {"shape": [2], "data": ["a", "b"]}], stream=True
    )
    assert (await client.answer("two"))["code"] == "invalid"


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_a_model_that_fails_in_the_middle(gateway: Gateway, connect: Connect, route: str) -> None:
    client = await connect(gateway)
    await prompt(client, route, "to fail", route=route)
    found, error = await parts(client, route)
    assert {part["data"] for part in found} == {"to "}
    assert (error["type"], error["code"]) == ("error", "upstream")
    assert "told to fail" in error["message"]


async def test_a_deadline_that_passes_in_the_middle(gateway: Gateway, connect: Connect, tmp_path: Path) -> None:
    client = await connect(gateway)
    await prompt(client, "r", f"to @{tmp_path}/never be", deadline_ms=500, route="direct")
    _, error = await parts(client, "r")
    assert error["code"] == "deadline_exceeded"
    await soon((tmp_path / "never.ended").exists)


@pytest.mark.parametrize("how", ["cancel", "leave"])
async def test_a_stream_that_nobody_wants_any_more_ends_in_the_model(
    gateway: Gateway, connect: Connect, tmp_path: Path, how: str
) -> None:
    client = await connect(gateway)
    await prompt(client, "r", f"to @{tmp_path}/never be", route="direct", on_disconnect="cancel")
    await client.event("partial", id="r")
    if how == "cancel":
        await client.send({"type": "cancel", "id": "r"})
        assert (await client.answer("r"))["code"] == "cancelled"
    else:
        await client.socket.close()
    await soon((tmp_path / "never.ended").exists)


async def test_who_comes_back_gets_what_is_missing_as_one_and_then_the_live_tail(
    gateway: Gateway, connect: Connect, tmp_path: Path
) -> None:
    first = await connect(gateway)
    await prompt(first, "r", f"a b @{tmp_path}/1 c d @{tmp_path}/2 e", route="direct")
    for seq in (0, 1):
        assert (await first.event("partial", id="r"))["seq"] == seq
    await first.socket.close()
    (tmp_path / "1").touch()
    second = await connect(gateway, params=resuming(first))
    other = await connect(gateway)  # something whose answer is behind what the model said meanwhile
    await other.infer("x", model="chat", data="x")
    await other.answer("x")
    await asyncio.sleep(0.2)  # what the gateway has read is joined; of what it reads later each part comes by itself
    await prompt(second, "r", "", retry=True, seen=1)
    missing = [await second.event("partial", id="r")]
    while missing[-1]["seq"] < 3:
        missing.append(await second.event("partial", id="r"))
    assert [part.get("from", part["seq"]) for part in missing] == [2, 3][: len(missing)]
    assert "".join(part["data"] for part in missing) == "c d "
    (tmp_path / "2").touch()
    found, result = await parts(second, "r")
    assert [(part["seq"], part["data"]) for part in found] == [(4, "e ")]
    assert result["data"] == {"output": "a b c d e "}


async def test_the_whole_waits_for_who_stays_away(gateway: Gateway, connect: Connect, tmp_path: Path) -> None:
    first = await connect(gateway)
    await prompt(first, "r", f"a @{tmp_path}/1 b", route="direct")
    await first.event("partial", id="r")
    written = gateway.metric("records_written_total", topic="podpair.results")
    await first.socket.close()
    (tmp_path / "1").touch()
    await soon(lambda: gateway.metric("records_written_total", topic="podpair.results") > written)
    second = await connect(gateway, params=resuming(first))
    result = await second.answer("r")
    assert (result["data"], "position" in result) == ({"output": "a b "}, True)


async def test_on_the_queue_route_what_was_missed_is_one_partial(
    gateway: Gateway, connect: Connect, tmp_path: Path
) -> None:
    first = await connect(gateway)
    await prompt(first, "r", f"a @{tmp_path}/1 b c d @{tmp_path}/2 e", route="queue")
    seen = await first.event("partial", id="r")
    read = gateway.metric("results_records_read_total")
    await first.socket.close()
    (tmp_path / "1").touch()
    await soon(lambda: gateway.metric("results_records_read_total") >= read + 3)
    second = await connect(gateway, params=resuming(first, seen["position"]))
    merged = await second.event("partial", id="r")
    assert (merged["from"], merged["seq"], merged["data"]) == (1, 3, "b c d ")
    (tmp_path / "2").touch()
    found, result = await parts(second, "r")
    assert [(part["seq"], part["data"]) for part in found] == [(4, "e ")]
    assert result["data"] == {"output": "a b c d e "}


async def test_a_client_that_does_not_read_gets_the_rest_as_few_large_parts(
    chat: Inference, start_gateway: Callable[..., Gateway]
) -> None:
    """What waits for it is bounded; nothing of it is lost, and nothing comes twice."""
    config = {"kafka": {"embedded": True}, "inference": {"url": chat.url}}
    gateway = start_gateway(config | {"limits": {"message_bytes": 8 << 20}, "sessions": {"buffer_bytes": 1 << 20}})
    gateway.wait_ready()
    http, client = await small(gateway, "slow")
    words = [f"{n:06d}{'x' * 20_000}" for n in range(400)]  # more than the systems between take
    transport = client.socket._writer.transport
    transport.pause_reading()
    await prompt(client, "r", " ".join(words), route="direct")
    await soon(lambda: gateway.metric("slow_clients"))
    transport.resume_reading()
    found, result = await parts(client, "r")
    assert "".join(part["data"] for part in found) == " ".join(words) + " "
    expected = 0
    for part in found:
        assert part.get("from", part["seq"]) == expected
        expected = part["seq"] + 1
    assert len(found) < len(words)
    assert (result["type"], result["parts"]) == ("result", len(words))
    await http.close()


@pytest.fixture
async def session(gateway: Gateway) -> AsyncIterator[podpair.client.Session]:
    async with podpair.client.connect(gateway.ws, token=token("stream")) as session:
        yield session


async def test_the_python_client_streams_and_goes_on_over_a_cut(
    session: podpair.client.Session, tmp_path: Path
) -> None:
    stream = session.stream("chat", f"a b @{tmp_path}/1 c @{tmp_path}/2 d", route="direct")
    text = ""
    async for part in stream:
        text += part
        if part == "b ":
            session.cut()
            (tmp_path / "1").touch()
        elif part.endswith("c "):
            (tmp_path / "2").touch()
    assert text == "a b c d "
    assert stream.result is not None
    assert stream.result.data == {"output": text}
