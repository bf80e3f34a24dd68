"""The results topic is made again, narrower, longer and wider, under clients that ask and are pushed to all the time.

Invariant 1: each accepted request ends in one terminal event. And all that is written after a change is delivered.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from confluent_kafka import Producer

import podpair.client
from harness.checking import ChangeChecker, TerminalChecker
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.topics import TopicAdmin
from harness.waiting import until

_ROW = [0.0] * 64
_CLIENTS = 12


class Crowd:
    """Clients, and what came to them."""

    def __init__(self, topic: str, address: str) -> None:
        self.requests, self.pushes = TerminalChecker(), ChangeChecker()
        self.asked: Counter[str] = Counter()  # how often: clients ask again after a gap
        self.terminals: Counter[str] = Counter()
        self.refused: dict[str, str] = {}  # by request: why it ended in an error
        self.trail: dict[str, list[Any]] = defaultdict(list)
        self.repeated: list[str] = []
        self._positions: set[str] = set()
        self.sessions: dict[str, podpair.client.Session] = {}
        self.over = asyncio.Event()
        self._unanswered: set[str] = set()
        self._answered = asyncio.Event()
        self._topic = topic
        self._address = address

    def on_event(self, name: str, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "gap":
            self.pushes.gap(name)
            self.trail[name].append((event["from"], event["to"]))
        elif kind == "push":
            self.pushes.saw(name, event["data"])
            self.trail[name].append((event["data"], event.get("position")))
        elif kind == "accepted":
            self.requests.accepted(name, event["id"])
            self.asked[event["id"]] += 1
        elif kind in ("result", "error") and "id" in event:
            self.terminals[event["id"]] += 1
        if kind not in ("welcome", "gap") and (position := event.get("position")) is not None:
            if position in self._positions:
                self.repeated.append(f"{name}: {kind} at {position} came twice")
            self._positions.add(position)

    async def ask(self, name: str, rng: random.Random) -> None:
        number = 0
        while not self.over.is_set():
            request, number = f"{name}.{number}", number + 1
            self.requests.asked(name, request)
            try:
                await self.sessions[name].infer("digits", _ROW, route="queue", id=request)
                outcome = "result"
                self._unanswered.discard(name)
            except podpair.client.PodpairError as error:
                outcome = error.code
                self.refused[request] = str(error)
            self.requests.ended(name, request, outcome)
            if not self._unanswered:
                self._answered.set()
            await asyncio.sleep(rng.uniform(0.02, 0.2))

    async def all_answered(self) -> None:
        """Wait until each client has got one more result. Raises TimeoutError."""
        self._unanswered.update(self.sessions)
        self._answered.clear()
        async with asyncio.timeout(90):
            await self._answered.wait()

    async def push(self, rounds: int) -> None:
        """Write to each client, with a producer that has just learnt what the topic is."""
        # Partitions that were just made have no leader for a moment; idempotence keeps the order of what is written again.
        own = {"partitioner": "murmur2_random", "enable.idempotence": True, "log_level": 0}
        producer = Producer({"bootstrap.servers": self._address} | own)
        for _ in range(rounds):
            for name, session in self.sessions.items():
                producer.produce(self._topic, key=session.session, value=b"%d" % self.pushes.wrote(name))
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(producer.flush, 30) == 0

    def faults(self) -> list[str]:
        # A request that was refused has an error and was never accepted.
        twice = [
            f"{request}: {times} terminal events, accepted {self.asked[request]} times; {self.refused.get(request)}"
            for request, times in self.terminals.items()
            if times > max(self.asked[request], request in self.refused)
        ]
        return [*self.requests.faults(), *self.pushes.faults(), *self.repeated, *twice]


async def test_the_results_topic_changes_under_load(
    start_pair: Callable[..., Gateway], broker: Broker, names: dict[str, Any]
) -> None:
    topics, results = TopicAdmin(broker.address), names["results"]["topic"]
    kafka = {"bootstrap_servers": broker.address, "probe_seconds": 0.2}
    gateways = [start_pair(kafka=kafka, results={**names["results"], "partitions": 4}) for _ in range(2)]
    crowd = Crowd(results, broker.address)
    changes: list[tuple[Callable[..., None], int]] = [
        (topics.recreate, 4), (topics.recreate, 2), (topics.widen, 5), (topics.recreate, 4), (topics.widen, 8),
    ]  # fmt: skip
    async with AsyncExitStack() as stack:
        for number in range(_CLIENTS):
            name = f"c{number}"
            crowd.sessions[name] = await stack.enter_async_context(
                podpair.client.connect(
                    gateways[number % 2].ws, token=token(name), on_gap=lambda _: None,
                    on_event=lambda event, name=name: crowd.on_event(name, event),
                )
            )  # fmt: skip
        askers = [asyncio.create_task(crowd.ask(name, random.Random(name))) for name in crowd.sessions]
        await crowd.all_answered()  # the gateways have shared out the requests' partitions
        await crowd.push(20)
        for change, partitions in changes:
            await asyncio.to_thread(change, results, partitions)
            crowd.pushes.changed()
            await crowd.push(50)  # before the gateways can have noticed, as much as after it
            await _complete(crowd)
        for gateway in gateways:
            await asyncio.to_thread(gateway.wait_ready)
        await crowd.push(5)
        await crowd.all_answered()
        crowd.over.set()
        async with asyncio.timeout(90):
            await asyncio.gather(*askers)
        await _complete(crowd)
    assert crowd.faults() == [], {name: crowd.trail[name] for name in crowd.trail if name in str(crowd.faults())}
    until(lambda: all(gateway.metric("topic_changes_total") >= len(changes) for gateway in gateways))


async def _complete(crowd: Crowd) -> None:
    """Everybody has the last push; else the checkers say who has not."""
    end = asyncio.get_running_loop().time() + 60
    while not all(map(crowd.pushes.complete, crowd.sessions)) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.05)
