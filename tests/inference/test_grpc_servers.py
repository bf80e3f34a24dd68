"""The two gRPC servers, over the wire: who is answered with what, who hears of a client that leaves, and their end."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from podpair.inference.core.errors import OverloadedError
from podpair.inference.core.memory_budget import MIN_COUNTED_BYTES, MemoryBudget
from podpair.inference.grpc.aio_server import AioServer
from podpair.inference.grpc.call import Call, RpcServer
from podpair.inference.grpc.calls import Calls
from podpair.inference.grpc.core_server import CoreServer
from podpair.inference.grpc.http2_server import Http2Server
from podpair.inference.grpc.status import Status
from podpair.inference.metrics import Metrics


class Served:
    """A server with a service `s`, and a channel to it."""

    def __init__(self, server: RpcServer, channel: Any) -> None:
        self.server, self.channel = server, channel

    def ask(self, method: str, message: bytes = b"", **options: Any) -> Any:
        return self.channel.unary_unary(f"/s/{method}")(message, **options)


@pytest.fixture(params=[Http2Server, CoreServer, AioServer], ids=["http2", "core", "aio"])
def make(request: pytest.FixtureRequest) -> Callable[[], RpcServer]:
    """Makes a server of one kind or the other."""
    options = {"grpc.so_reuseport": 0}
    if request.param is Http2Server:
        return lambda: Http2Server(options, Calls(Metrics(), MemoryBudget(1 << 30)))
    return lambda: request.param(options)


@pytest.fixture
async def served(make: Callable[[], RpcServer]) -> AsyncIterator[Served]:
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: failures.append(context))
    server = make()
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(server, channel)
    await asyncio.wait_for(server.stop(5), 30)
    # What was left to do in the loop when the thread ended.
    for _ in range(3):
        await asyncio.sleep(0)
    assert failures == []


async def failure(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name, error.value.details()


async def test_each_call_gets_its_own_answer_in_whatever_order_they_are_answered(served: Served) -> None:
    waiting: list[tuple[bytes, Call]] = []

    def answer_all_backwards(message: bytes, call: Call) -> None:
        waiting.append((message, call))
        if len(waiting) == 200:
            for asked, asker in reversed(waiting):
                asker.answer(asked * 3)

    served.server.add_direct("s", "Later", answer_all_backwards)
    messages = [b"%d" % i for i in range(200)]
    calls = [served.ask("Later", message, timeout=30) for message in messages]
    assert await asyncio.gather(*calls) == [message * 3 for message in messages]


async def test_a_call_is_ended_once(served: Served) -> None:
    ended = []

    def twice(message: bytes, call: Call) -> None:
        call.on_done = lambda: ended.append(call.done)
        call.answer(b"first")
        call.answer(b"second")
        call.fail(Status.INTERNAL, "third")

    served.server.add_direct("s", "Twice", twice)
    assert await served.ask("Twice") == b"first"
    assert ended == [True]


async def test_a_client_that_leaves_and_a_deadline_that_passes_are_told_once(served: Served) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    begun: asyncio.Queue[Call] = asyncio.Queue()

    def never(message: bytes, call: Call) -> None:
        call.on_cancelled = lambda: told.put_nowait(message)
        begun.put_nowait(call)

    served.server.add_direct("s", "Never", never)
    leaving = served.ask("Never", b"left")
    call = await asyncio.wait_for(begun.get(), 30)
    assert call.time_remaining() is None
    leaving.cancel()
    assert await asyncio.wait_for(told.get(), 30) == b"left"
    call.answer(b"nobody hears this")
    assert (await failure(served.ask("Never", b"late", timeout=0.2)))[0] == "DEADLINE_EXCEEDED"
    late = await asyncio.wait_for(begun.get(), 30)
    assert await asyncio.wait_for(told.get(), 30) == b"late"
    remaining = late.time_remaining()
    assert remaining is not None
    assert remaining <= 0.2
    assert told.empty()


async def test_metadata_comes_in_and_a_status_with_metadata_goes_out(served: Served) -> None:
    def refuse(message: bytes, call: Call) -> None:
        (key,) = [value for name, value in call.invocation_metadata() if name == "key"]
        call.fail(Status.RESOURCE_EXHAUSTED, f"not for {key}, süß", (("after", "7"),))

    served.server.add_direct("s", "Refuse", refuse)
    call = served.ask("Refuse", metadata=(("key", "me"),))
    assert await failure(call) == ("RESOURCE_EXHAUSTED", "not for me, süß")
    assert ("after", "7") in list(await call.trailing_metadata())


async def test_what_is_not_there(served: Served) -> None:
    assert (await failure(served.ask("None")))[0] == "UNIMPLEMENTED"
    served.server.add_direct("s", "One", lambda message, call: call.answer(message))
    assert (await failure(served.ask("None")))[0] == "UNIMPLEMENTED"
    assert await served.ask("One", b"there") == b"there"


@pytest.mark.parametrize("make", [Http2Server, CoreServer], indirect=True)
async def test_what_brings_no_message(served: Served) -> None:
    served.server.add_direct("s", "One", lambda message, call: call.answer(message))
    silent = served.channel.stream_unary("/s/One")
    assert await failure(silent(iter(()))) == ("UNIMPLEMENTED", "the method takes exactly one message")


async def test_coroutines_and_generators_are_served_as_grpc_aio_does(served: Served) -> None:
    async def upper(message: bytes, context: Any) -> bytes:
        if message == b"bad":
            await context.abort(Status.INVALID_ARGUMENT, "bad")
        if message == b"bug":
            raise ZeroDivisionError
        return message.upper()

    async def count(message: bytes, context: Any) -> AsyncIterator[bytes]:
        for i in range(int(message)):
            yield b"%d" % i

    async def pairs(messages: AsyncIterator[bytes], context: Any) -> None:
        async for message in messages:
            await context.write(message * 2)

    served.server.add_registered_method_handlers(
        "s",
        {
            "Upper": grpc.unary_unary_rpc_method_handler(upper),
            "Count": grpc.unary_stream_rpc_method_handler(count),
            "Pairs": grpc.stream_stream_rpc_method_handler(pairs),
        },
    )
    assert await served.ask("Upper", b"ab") == b"AB"
    assert await failure(served.ask("Upper", b"bad")) == ("INVALID_ARGUMENT", "bad")
    assert (await failure(served.ask("Upper", b"bug")))[0] == "UNKNOWN"
    counted = served.channel.unary_stream("/s/Count")(b"500")
    assert [int(answer) async for answer in counted] == list(range(500))
    doubled = served.channel.stream_stream("/s/Pairs")(iter([b"a", b"b"]))
    assert [answer async for answer in doubled] == [b"aa", b"bb"]


async def test_a_stream_whose_client_leaves_is_cancelled(served: Served) -> None:
    cancelled = asyncio.Event()

    async def endless(message: bytes, context: Any) -> None:
        try:
            await context.write(b"one")
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    handler = grpc.unary_stream_rpc_method_handler(endless)
    served.server.add_registered_method_handlers("s", {"Endless": handler})
    call = served.channel.unary_stream("/s/Endless")(b"")
    assert await call.read() == b"one"
    call.cancel()
    await asyncio.wait_for(cancelled.wait(), 30)


@pytest.mark.parametrize("answered", [True, False])
async def test_it_stops_when_calls_are_answered_or_the_time_is_up(
    make: Callable[[], RpcServer], answered: bool
) -> None:
    server = make()
    begun: asyncio.Queue[Call] = asyncio.Queue()
    server.add_direct("s", "Held", lambda message, call: begun.put_nowait(call))
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        asked = channel.unary_unary("/s/Held")(b"")
        call = await asyncio.wait_for(begun.get(), 30)
        stopping = asyncio.create_task(server.stop(30 if answered else 0.05))
        if answered:
            call.answer(b"after all")
            assert await asyncio.wait_for(asked, 30) == b"after all"
        else:
            assert (await failure(asked))[0] in ("UNAVAILABLE", "CANCELLED")
        await asyncio.wait_for(stopping, 60)
        call.answer(b"too late")
    with pytest.raises(RuntimeError, match="stopped"):
        await server.start(f"127.0.0.1:{port}")


async def test_a_port_that_is_taken(make: Callable[[], RpcServer]) -> None:
    server = make()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(RuntimeError):
            await server.start(f"127.0.0.1:{listener.getsockname()[1]}")
    await server.stop(1)


async def test_failures_are_counted_and_large_requests_bounded_while_they_are_at_work(served: Served) -> None:
    metrics, budget = Metrics(), MemoryBudget(MIN_COUNTED_BYTES)
    calls = Calls(metrics, budget)
    begun: asyncio.Queue[Call] = asyncio.Queue()

    def work(message: bytes, call: Call) -> None:
        if message == b"full":
            raise OverloadedError("full", 0.25)
        if message == b"bug":
            raise ZeroDivisionError
        begun.put_nowait(call)

    served.server.add_direct("s", "Work", calls.direct(work))
    refused = served.ask("Work", b"full")
    assert await failure(refused) == ("RESOURCE_EXHAUSTED", "full")
    trailing = dict(list(await refused.trailing_metadata()))
    assert (trailing["podpair-retry-after-ms"], trailing["grpc-retry-pushback-ms"]) == ("250", "250")
    assert (await failure(served.ask("Work", b"bug")))[0] == "INTERNAL"
    for kind in ("overloaded", "internal"):
        assert metrics.registry.get_sample_value("inference_errors_total", {"reason": kind}) == 1
    large = bytes(MIN_COUNTED_BYTES + 1)
    first, leaving = served.ask("Work", large), None
    call = await asyncio.wait_for(begun.get(), 30)
    assert budget.bytes == len(large)
    code, details = await failure(served.ask("Work", large))
    assert code == "RESOURCE_EXHAUSTED"
    assert "max_pending_bytes" in details
    call.answer(b"done")
    assert await first == b"done"
    assert budget.bytes == 0
    leaving = served.ask("Work", large)
    call = await asyncio.wait_for(begun.get(), 30)
    gone = asyncio.Event()
    call.on_cancelled = gone.set
    leaving.cancel()
    await asyncio.wait_for(gone.wait(), 30)
    assert budget.bytes == 0
