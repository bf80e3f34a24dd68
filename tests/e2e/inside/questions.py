"""People who ask the retrieval example, each at its pace, until `touch /tmp/stop`.

Standard error says `began` once all have had an answer. One line of JSON on standard output: how many questions were asked, how
many were answered with a passage before their deadline, what became of the others, and seconds to the answer (p50, p99, longest).
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

import jwt

import podpair.client

_STOP = Path("/tmp/stop")


class People:
    """All of them, and what they have seen."""

    def __init__(self, url: str, secret: str, people: int, questions: list[str], pace: float, deadline: float) -> None:
        self._url, self._secret, self._questions = url, secret, questions
        self._pace, self._deadline = pace, deadline
        self.people = people
        self._waiting = people  # for their first answer
        self._asked = 0
        self._took: list[float] = []
        self._failed: Counter[str] = Counter()
        self.began, self.stopped = asyncio.Event(), asyncio.Event()

    async def ask(self, number: int) -> None:
        token = jwt.encode({"sub": f"reader-{number}", "exp": time.time() + 3600}, self._secret, "HS256")
        draw = random.Random(number)
        async with podpair.client.connect(self._url, token=token) as session:
            await self._question(session, draw)
            self._waiting -= 1
            if not self._waiting:
                self.began.set()
            await self.began.wait()
            await asyncio.sleep(draw.uniform(0, self._pace))  # not all in step
            while not self.stopped.is_set():
                self._asked += 1
                begun = time.monotonic()
                try:
                    answered = await self._question(session, draw)
                except podpair.client.PodpairError as error:
                    self._failed[f"{type(error).__name__}: {error}"] += 1
                else:
                    took = time.monotonic() - begun
                    if not answered:
                        self._failed["no passage"] += 1
                    elif took > self._deadline:
                        self._failed["too late"] += 1
                    else:
                        self._took.append(took)
                await asyncio.sleep(self._pace)

    async def _question(self, session: podpair.client.Session, draw: random.Random) -> bool:
        result = await session.infer("answer", draw.choice(self._questions), deadline=self._deadline)
        return bool(result.data["passages"])

    def verdict(self) -> dict[str, object]:
        took = sorted(self._took)
        return {
            "asked": self._asked,
            "answered": len(took),
            "failed": dict(self._failed),
            "seconds": [took[len(took) // 2], took[len(took) * 99 // 100], took[-1]] if took else [],
        }


async def main(timeout: float, **options: object) -> None:
    people = People(**options)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as tasks:
            for number in range(people.people):
                tasks.create_task(people.ask(number))
            await people.began.wait()
            print("began", file=sys.stderr, flush=True)  # noqa: T201
            while not _STOP.exists():  # noqa: ASYNC240
                await asyncio.sleep(0.1)
            people.stopped.set()
    except TimeoutError:
        pass  # what was asked and not answered tells
    print(json.dumps(people.verdict()))  # noqa: T201


_STOP.unlink(missing_ok=True)
asyncio.run(main(**json.loads(sys.argv[1])))
