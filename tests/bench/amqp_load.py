"""The load of `amqp.py`: Celery's tasks to a queue of RabbitMQ, so many open at a time. Arguments: the URL, the queue, how many.

For each line on standard input, a number of seconds, it asks for that long and prints what it saw as a JSON object.
"""

import asyncio
import json
import random
import sys
import time
from typing import Any

import aiormq
from pamqp.commands import Basic

_PATIENCE = 30.0  # seconds for what is open at the end


class Load:
    """Tasks that are open, and when each was asked."""

    def __init__(self, channel: Any, queue: str, replies: str) -> None:
        self.channel, self.queue, self.replies = channel, queue, replies
        self.asked: dict[str, float] = {}
        self.seconds: list[float] = []
        self.failed = 0
        self.end = 0.0
        self.idle = asyncio.Event()
        self._number = 0
        row = [round(random.Random(7).random(), 3) for _ in range(64)]
        self._body = json.dumps(
            [[row], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        ).encode()

    async def ask(self) -> None:
        """Publish the next task."""
        self._number += 1
        name = f"task-{self._number}"
        headers = {
            "lang": "py",
            "task": "tasks.predict",
            "id": name,
            "root_id": name,
            "retries": 0,
            "timelimit": [None, None],
        }
        properties = Basic.Properties(
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            correlation_id=name,
            reply_to=self.replies,
            delivery_mode=2,
        )
        self.asked[name] = time.perf_counter()
        await self.channel.basic_publish(self._body, routing_key=self.queue, properties=properties, wait=False)

    async def on_answer(self, message: Any) -> None:
        """Count an answer; ask for another as long as there is time."""
        answer = json.loads(message.body)
        if answer["status"] not in ("SUCCESS", "FAILURE"):
            return
        now = time.perf_counter()
        self.seconds.append(now - self.asked.pop(answer["task_id"]))
        self.failed += answer["status"] != "SUCCESS"
        if now < self.end:
            await self.ask()
        elif not self.asked:
            self.idle.set()

    async def run(self, seconds: float, depth: int) -> dict[str, float]:
        """Ask for so long. Raises TimeoutError if what is open isn't answered."""
        self.seconds.clear()
        self.failed = 0
        self.idle.clear()
        began = time.perf_counter()
        self.end = began + seconds
        for _ in range(depth):
            await self.ask()
        async with asyncio.timeout(seconds + _PATIENCE):
            await self.idle.wait()
        took, ordered = time.perf_counter() - began, sorted(self.seconds)
        return {
            "answered": len(ordered),
            "failed": self.failed,
            "requests_per_s": len(ordered) / took,
            "p50_ms": ordered[len(ordered) // 2] * 1000,
            "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        }


async def main() -> None:
    url, queue, depth = sys.argv[1], sys.argv[2], int(sys.argv[3])
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=False)
    replies = (await channel.queue_declare("", exclusive=True)).queue
    load = Load(channel, queue, replies)
    await channel.basic_consume(replies, load.on_answer, no_ack=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await load.run(float(line), depth)), flush=True)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
