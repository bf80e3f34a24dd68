"""Ask the digits model once on each route; prints a line of JSON: what was answered on which route."""

import asyncio
import json
import sys
from typing import Any

import podpair.client


async def main(url: str, token: str, inputs: list[Any], routes: list[str]) -> None:
    accepted: dict[str, str] = {}

    def saw(event: dict[str, Any]) -> None:
        if event["type"] == "accepted":
            accepted[event["id"]] = event["route"]

    answers = {}
    async with asyncio.timeout(30), podpair.client.connect(url, token=token, on_event=saw) as session:
        for route in routes:
            result = await session.infer("digits", inputs=inputs, route=route, id=f"r-{route}")
            label = next(one for one in result.outputs if one["name"] == "label")["data"][0]
            answers[route] = {"label": label, "version": result.model_version, "taken": accepted[f"r-{route}"]}
    print(json.dumps(answers))  # noqa: T201


asyncio.run(main(**json.loads(sys.argv[1])))
