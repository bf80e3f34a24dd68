"""Queue many requests at once, over several sessions; prints how they ended, as JSON."""

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import podpair.client


async def main(url: str, tokens: list[str], model: str, inputs: list[Any], each: int) -> None:
    outcomes: Counter[str] = Counter()

    async def ask(session: podpair.client.Session) -> None:
        try:
            await session.infer(model, inputs=inputs, route="queue")
        except podpair.client.PodpairError as error:
            outcomes[f"{type(error).__name__}: {error}"] += 1
        else:
            outcomes["result"] += 1

    async def one(token: str) -> None:
        async with podpair.client.connect(url, token=token) as session:
            await asyncio.gather(*(ask(session) for _ in range(each)))

    await asyncio.gather(*map(one, tokens))
    print(json.dumps(outcomes))  # noqa: T201


asyncio.run(main(**json.loads(sys.argv[1])))
