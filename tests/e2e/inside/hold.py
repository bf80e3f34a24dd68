"""Hold sessions open at one gateway until `touch /tmp/stop`. Standard error says `began` once all are connected; prints, as JSON,
how many of them were asked to leave.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import podpair.client

_STOP = Path("/tmp/stop")


async def main(url: str, tokens: list[str]) -> None:
    drained = 0
    connected = 0
    all_connected = asyncio.Event()

    def saw(event: dict[str, Any]) -> None:
        nonlocal drained
        drained += event["type"] == "drain"

    async def hold(token: str) -> None:
        nonlocal connected
        async with podpair.client.connect(url, token=token, on_event=saw):
            connected += 1
            if connected == len(tokens):
                all_connected.set()
            while not _STOP.exists():  # noqa: ASYNC240
                await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        for token in tokens:
            group.create_task(hold(token))
        await all_connected.wait()
        print("began", file=sys.stderr, flush=True)  # noqa: T201
    print(json.dumps({"drained": drained}))  # noqa: T201


asyncio.run(main(**json.loads(sys.argv[1])))
