"""Tries what `server` needs of grpcio's core, over the wire: `python -m podpair.inference.grpc.trial`; exit status 0 if it works.

A process of its own, since what changed in a private module may also hang, or end the process.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from podpair.inference.grpc.call import Call
from podpair.inference.grpc.core_server import CoreServer
from podpair.inference.grpc.status import Status

_SECONDS = 10.0


async def run() -> None:
    """Make one call of each kind, one that fails and one whose client leaves, and stop. Raises whatever goes wrong."""
    server = CoreServer({"grpc.so_reuseport": 0})
    came, left = asyncio.Event(), asyncio.Event()

    def echo(message: bytes, call: Call) -> None:
        if message == b"fail":
            call.fail(Status.RESOURCE_EXHAUSTED, "no", (("after", "7"),))
        elif message == b"stay":
            call.on_cancelled = left.set
            came.set()
        else:
            key = dict(call.invocation_metadata())["key"].encode()
            call.answer(message + key + (b"" if call.time_remaining() is None else b" in time"))

    async def upper(message: bytes, context: Any) -> bytes:
        return message.upper()

    async def pairs(given: AsyncIterator[bytes], context: Any) -> None:
        async for message in given:
            await context.write(message * 2)

    server.add_direct("s", "Echo", echo)
    handlers = {
        "Upper": grpc.unary_unary_rpc_method_handler(upper),
        "Pairs": grpc.stream_stream_rpc_method_handler(pairs),
    }
    server.add_registered_method_handlers("s", handlers)
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/s/Echo")
        _expect(await ask(b"a", metadata=(("key", "k"),), timeout=_SECONDS), b"ak in time")
        _expect(await ask(b"a", metadata=(("key", "k"),)), b"ak")
        _expect(await channel.unary_unary("/s/Upper")(b"a"), b"A")
        _expect([part async for part in channel.stream_stream("/s/Pairs")(iter([b"a", b"b"]))], [b"aa", b"bb"])
        try:
            await ask(b"fail")
        except grpc.aio.AioRpcError as error:
            _expect((error.code(), error.details()), (grpc.StatusCode.RESOURCE_EXHAUSTED, "no"))
            _expect([value for key, value in list(error.trailing_metadata()) if key == "after"], ["7"])
        leaving = ask(b"stay")
        await came.wait()
        leaving.cancel()
        await left.wait()
    await server.stop(1)


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise RuntimeError(f"{wanted!r} was expected, {found!r} came")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(run(), _SECONDS))
