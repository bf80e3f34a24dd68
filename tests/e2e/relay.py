"""A port before a Unix socket: `python relay.py HOST PORT SOCKET`, until SIGTERM. It logs `ready` when it listens."""

import asyncio
import contextlib
import json
import sys


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    target.close()


async def main(host: str, port: str, path: str) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = await asyncio.open_unix_connection(path)
        await asyncio.gather(copy(reader, far), copy(near, writer))

    server = await asyncio.start_server(relay, host, int(port))
    print(json.dumps({"message": "ready"}), file=sys.stderr, flush=True)  # noqa: T201
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
