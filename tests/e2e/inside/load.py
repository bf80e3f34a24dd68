"""Clients that ask, listen and resume until `touch /tmp/stop`; then each gets what it is owed, and the checkers judge.

Standard error says `began` once all are connected. One line of JSON on standard output: faults, outcomes, how many were drained,
gaps, the model's versions that answered, and the gateways that the clients were at.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jwt
from checking import OrderChecker, TerminalChecker
from confluent_kafka import Producer

import podpair.client

_STOP = Path("/tmp/stop")
_ROUTES = ("auto", "direct", "queue")


class Load:
    """All clients, and the producer of what is pushed to them."""

    def __init__(
        self, url: str, secret: str, clients: int, inputs: list[Any], servers: str, topic: str, every: float
    ) -> None:
        self._url, self._inputs = url, inputs
        self.names = names = [f"client-{number}" for number in range(clients)]
        claims = {"exp": time.time() + 3600}
        self._ids: dict[str, str] = {}  # of the sessions: what pushes are keyed by
        self._tokens = {name: jwt.encode({**claims, "sub": name}, secret, "HS256") for name in names}
        self._producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "linger.ms": 5})
        self._topic = topic
        self._every = every
        self._open = 0
        self._pushed = dict.fromkeys(names, 0)
        self._all_pushed = False
        self._answers = TerminalChecker()
        self._seen: dict[str, list[int]] = {name: [] for name in names}
        self._drained: set[str] = set()
        self._gaps = 0
        self._versions: Counter[str] = Counter()
        self._gateways: set[str] = set()
        self.all_open, self.stopped = asyncio.Event(), asyncio.Event()

    async def client(self, name: str) -> None:
        def saw(event: dict[str, Any]) -> None:
            if event["type"] == "accepted":
                self._answers.accepted(name, event["id"])
            elif event["type"] == "drain":
                self._drained.add(name)
            elif event["type"] == "welcome":
                self._gateways.add(event["gateway"])

        def gap(_: Any) -> None:
            self._gaps += 1

        async with podpair.client.connect(self._url, token=self._tokens[name], on_event=saw, on_gap=gap) as session:
            self._ids[name] = session.session
            self._open += 1
            if self._open == len(self._tokens):
                self.all_open.set()
            await self.all_open.wait()
            await asyncio.gather(self._ask(name, session), self._listen(name, session))

    async def _ask(self, name: str, session: podpair.client.Session) -> None:
        number = 0
        await asyncio.sleep(self._every * self.names.index(name) / len(self.names))  # not all in step
        while not self.stopped.is_set():
            request, route = f"r-{number}", _ROUTES[number % len(_ROUTES)]
            number += 1
            self._answers.asked(name, request)
            try:
                result = await session.infer("digits", inputs=self._inputs, id=request, route=route)
            except podpair.client.PodpairError as error:
                self._answers.ended(name, request, f"{route}: {type(error).__name__}: {error}")
            else:
                self._answers.ended(name, request, "result")
                self._versions[result.model_version or ""] += 1
            await asyncio.sleep(self._every)

    async def _listen(self, name: str, session: podpair.client.Session) -> None:
        async for push in session.pushes():
            self._seen[name].append(push.data)
            if self._all_pushed and len(self._seen[name]) >= self._pushed[name]:
                return

    async def push(self) -> None:
        """One more to each client, again and again; the last one comes after the stop, so that no listener waits for ever."""
        await self.all_open.wait()
        while not self._all_pushed:
            self._all_pushed = self.stopped.is_set()
            for name in self._tokens:
                self._producer.produce(self._topic, key=self._ids[name], value=json.dumps(self._pushed[name]))
                self._pushed[name] += 1
            self._producer.poll(0)
            await asyncio.sleep(0 if self._all_pushed else self._every)
        await asyncio.to_thread(self._producer.flush, 30)

    def verdict(self) -> dict[str, Any]:
        order = OrderChecker(self._pushed)
        for name, seen in self._seen.items():
            for number in seen:
                order.saw(name, number)
        return {
            "faults": [*order.faults(), *self._answers.faults()],
            "outcomes": dict(self._answers.outcomes),
            "pushes": sum(self._pushed.values()),
            "drained": len(self._drained),
            "gaps": self._gaps,
            "versions": dict(self._versions),
            "gateways": sorted(self._gateways),
        }


async def main(timeout: float, **options: Any) -> None:
    load = Load(**options)
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as tasks:
            for name in load.names:
                tasks.create_task(load.client(name))
            tasks.create_task(load.push())
            await load.all_open.wait()
            print("began", file=sys.stderr, flush=True)  # noqa: T201
            while not _STOP.exists():  # noqa: ASYNC240
                await asyncio.sleep(0.1)
            load.stopped.set()
    except TimeoutError:
        pass  # the checkers tell what is missing
    print(json.dumps(load.verdict()))  # noqa: T201


_STOP.unlink(missing_ok=True)
asyncio.run(main(**json.loads(sys.argv[1])))
