"""Runs Autobahn's cases, but those of compression, against a WebSocket server that echoes: `autobahn.py URL`.

Prints a JSON list of [case, verdict on its messages, verdict on its end].
"""

import asyncio
import json
import sys

from kosoku import FailureError, run_fuzzingclient

WITHOUT = ["12.*", "13.*"]


async def main() -> None:
    try:
        results = await run_fuzzingclient(sys.argv[1], exclude_cases=WITHOUT, concurrency=4)
    except FailureError as error:
        results = error.results
    found = [[result.case_id, result.behavior.value, result.behavior_close.value] for result in results]
    print(json.dumps(found))  # noqa: T201


asyncio.run(main())
