"""Offers subprotocols with the Python package websockets: `offers.py URL TOKEN` prints a list of what came of each as JSON."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

URL, TOKEN = sys.argv[1:]
OFFERS = [
    [f"bearer.{TOKEN}"],
    ["mqtt"],
    [f"bearer.{TOKEN}", "podpair.v1"],
    ["mqtt", "podpair.v1.raw", f"bearer.{TOKEN}"],
]


async def outcome(offer: list[str]) -> str | None:
    try:
        async with connect(URL, subprotocols=offer) as socket:
            return socket.subprotocol
    except InvalidStatus as error:
        message = json.loads(error.response.body)["error"]["message"]
        return f"{error.response.status_code} {message}"


async def main() -> None:
    print(json.dumps([await outcome(offer) for offer in OFFERS]))  # noqa: T201


asyncio.run(main())
