"""A crowd of clients on both routes, to which numbered records are pushed as well, and what checkers are told of it."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import aiohttp
from confluent_kafka import KafkaException, Producer

import podpair.client
from harness.checking import GapChecker, OrderChecker, TerminalChecker
from harness.fleet import RESULTS, Fleet
from harness.pair import token

_ROUTES = ("queue", "direct", "auto")
_ROW = [0.0] * 64
_LARGE = "x" * 100_000
_FLUSH = 3.0  # seconds for what a producer has left when it is replaced


class Member:
    """One client: asks one request after the other on a route drawn anew each time, and takes what is pushed to it."""

    def __init__(self, name: str, crowd: "Crowd", rng: random.Random) -> None:
        self.name = name
        self._crowd = crowd
        self._rng = rng
        self._positions: set[str] = set()
        self.session: podpair.client.Session | None = None
        self.pushed = 0  # records written to it
        self.answered = False  # with a result, after all was over
        self.errors: Counter[str] = Counter()  # by code
        self.pending = ""  # the id of the request that it waits for
        self.told: list[str] = []  # what it was told of its requests and of gaps, lately
        self.last = -1  # the number of the last that was seen here
        self.caught_up = asyncio.Event()

    def on_gap(self, gap: podpair.client.Gap) -> None:
        """Something is missing, and the client was told."""
        self._crowd.gaps.append(f"{self.name}: {gap}")
        self._crowd.reasons[gap.reason] += 1
        if gap.reason != "requests":  # which says nothing of pushes: none of them may be missing for that
            self._crowd.logged.gap(self.name, time.time())

    def on_event(self, event: dict[str, Any]) -> None:
        """Each frame as it comes from the wire."""
        crowd = self._crowd
        if event["type"] in ("welcome", "accepted", "gap") or event.get("id") == self.pending:
            about = {
                key: event[key] for key in ("id", "route", "reason", "gateway", "code", "position") if key in event
            }
            self.told = [*self.told[-30:], f"{time.time():.2f} {event['type']} {about}"]
        if event["type"] == "accepted":
            crowd.requests.accepted(self.name, event["id"])
        if event["type"] in ("result", "error") and "id" in event:
            crowd.terminals[event["id"]] += 1
        if event["type"] == "push":
            crowd.logged.saw(self.name, event["data"]["n"], placed="position" in event)
        position = event.get("position")
        if position is not None and event["type"] in ("result", "error", "push", "partial"):
            if position in self._positions:
                crowd.repeated.append(f"{self.name}: {event['type']} at {position} came twice")
            self._positions.add(position)

    async def ask(self, until: asyncio.Event) -> None:
        """Requests with a pause between them until it is over, and until one that was asked then is answered."""
        assert self.session is not None
        number = 0
        while not self.answered:
            over = until.is_set()
            request, number = f"{self.name}.{number}", number + 1
            self._crowd.requests.asked(self.name, request)
            self.pending = request
            try:
                result = await self.session.infer("digits", _ROW, route=self._rng.choice(_ROUTES), id=request)
                outcome = f"result, {result.route}" if result.data["label"] else "empty"
                self.answered = over
            except podpair.client.PodpairError as error:
                outcome = error.code
                self.errors[outcome] += 1
                self._crowd.errors[f"{error.code}: {error.message[:80]}"] += 1
            self._crowd.requests.ended(self.name, request, outcome)
            self.pending = ""
            await asyncio.sleep(self._rng.uniform(0.2, 1.5))

    async def take(self) -> None:
        """What is pushed."""
        assert self.session is not None
        async for push in self.session.pushes():
            self._crowd.pushes.saw(self.name, push.data["n"])
            self.last = push.data["n"]
            self.caught_up.set()

    async def is_slow(self, seconds: float, records: int) -> None:
        """Read nothing for so long, while more comes than the gateway keeps for one client."""
        assert self.session is not None
        socket = self.session._link._ws
        connection = socket._response.connection if socket is not None else None
        transport = connection.transport if connection is not None else None
        if transport is None or transport.is_closing():
            return
        transport.pause_reading()
        try:
            for _ in range(records):
                self._crowd.push(self, pad=_LARGE)
            await asyncio.sleep(seconds)
        finally:
            if not transport.is_closing():
                transport.resume_reading()


async def reads_nothing(urls: list[str], brokers: str, name: str, patience: float = 60.0) -> None:
    """A client that takes nothing of what is written for it, and says that it is there: the gateway has to end it.

    Raises AssertionError where it does not.
    """
    headers = {"Authorization": f"Bearer {token(name)}"}
    producer = Producer({"bootstrap.servers": brokers, "partitioner": "murmur2_random", "log_level": 0})
    async with aiohttp.ClientSession() as http, await _first(http, urls, headers) as socket:
        session = (await socket.receive_json())["session"]
        connection = socket._response.connection
        assert connection is not None
        transport = connection.transport
        assert transport is not None
        transport.pause_reading()
        end = time.monotonic() + patience
        while not transport.is_closing():
            assert time.monotonic() < end, "a client that reads nothing is kept"
            producer.produce(
                RESULTS, key=session, value=b'"%b"' % _LARGE.encode()
            )  # one a poll of the gateway's reader
            producer.poll(0)
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await socket.pong()
            await asyncio.sleep(0.05)
    await asyncio.to_thread(producer.flush, 20)


async def _first(
    http: aiohttp.ClientSession, urls: list[str], headers: dict[str, str]
) -> aiohttp.ClientWebSocketResponse:
    """A connection to whichever of the gateways is there."""
    while True:
        for url in urls:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                return await http.ws_connect(url, headers=headers)
        await asyncio.sleep(0.1)


class Crowd:
    """`size` clients of both gateways. After `run` the checkers know what came.

    `logged` is for runs in which the topics themselves change; without such a change there may be no gap.
    """

    def __init__(self, fleet: Fleet, size: int, rng: random.Random) -> None:
        self.requests = TerminalChecker()
        self.pushes = OrderChecker({})
        self.logged = GapChecker()
        self.repeated: list[str] = []
        self.gaps: list[str] = []
        self.reasons: Counter[str] = Counter()  # of the gaps
        self.errors: Counter[str] = Counter()
        self.terminals: Counter[str] = Counter()  # terminal events by request, as they came: clients drop a second one
        self.unwritten: list[str] = []
        self._fleet = fleet
        self._rng = rng
        self.members = [Member(f"c-{n}", self, random.Random(rng.random())) for n in range(size)]
        self._producer: Producer | None = self._new_producer()  # None while a topic's change is settled

    def _new_producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._fleet.brokers.addresses,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "topic.metadata.refresh.interval.ms": 1000,  # a topic may be widened
                "allow.auto.create.topics": False,
                "message.timeout.ms": 60_000,
                "log_level": 0,
            }
        )

    async def changed(self, begin: float, end: float) -> None:
        """A topic changed between these times: write with another producer from now on.

        librdkafka keeps the leaders' epochs of the topic before, and writes nothing to one that was made again with lower
        ones (findings/restarted-then-recreated-reads-nothing.sh).
        """
        self.logged.unsettled(begin, end)
        before, self._producer = self._producer, None
        if before is not None:  # else another change is being settled
            if await asyncio.to_thread(before.flush, _FLUSH):
                before.purge()
                before.flush(1)
            self._producer = self._new_producer()

    def push(self, member: Member, pad: str = "") -> None:
        """Write the member's next numbered record, as any other service would."""
        assert member.session is not None
        assert self._producer is not None
        number, now = member.pushed, time.time()

        def written(error: Any, _: Any) -> None:
            if error is not None:
                self.unwritten.append(f"{member.name}: {error}")
            else:
                self.logged.wrote(member.name, number, now)

        value = b'{"n":%d,"pad":"%b"}' % (member.pushed, pad.encode())
        try:
            self._producer.produce(RESULTS, key=member.session.session, value=value, on_delivery=written)
        except KafkaException as error:  # there is no such topic just now
            written(error, None)
        member.pushed += 1

    async def run(self, under: Any, settle: float) -> None:
        """Ask and push while `under(crowd)` runs; then wait for what is under way, at most `settle` seconds."""
        over = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
            urls = [pair.ws for pair in self._fleet.pairs]
            for index, member in enumerate(self.members):
                member.session = await stack.enter_async_context(
                    podpair.client.connect(
                        urls[index % 2 :] + urls[: index % 2],
                        token=token(member.name),
                        on_event=member.on_event,
                        on_gap=member.on_gap,
                        backoff=podpair.client.Backoff(initial=0.1, maximum=1.0),
                        heartbeat=3.0,
                        open_timeout=5.0,
                        http=http,
                    )
                )
            takers = [asyncio.create_task(member.take()) for member in self.members]
            askers = [asyncio.create_task(member.ask(over)) for member in self.members]
            pusher = asyncio.create_task(self._push(over))
            try:
                await under(self)
            finally:
                over.set()
            await asyncio.gather(pusher)
            for member in self.members:  # who has this one has what was before it, or was told that it is gone
                self.push(member)
            await self._flush()
            with contextlib.suppress(TimeoutError):  # what has not come by then is what the checkers miss
                async with asyncio.timeout(settle):
                    await asyncio.gather(*askers)
                    await asyncio.gather(*(self._caught_up(member) for member in self.members))
            for task in (*askers, *takers):
                task.cancel()
            await asyncio.gather(*askers, *takers, return_exceptions=True)

    async def _push(self, over: asyncio.Event) -> None:
        while not over.is_set():
            if self._producer is None:
                await asyncio.sleep(0.05)
                continue
            for member in self._rng.sample(self.members, len(self.members) // 10):
                self.push(member)
            self._producer.poll(0)
            await asyncio.sleep(0.2)
        await self._flush()

    async def _flush(self) -> None:
        assert self._producer is not None
        left = await asyncio.to_thread(self._producer.flush, 60)
        if left:
            self.unwritten.append(f"{left} records were not written in a minute")

    async def _caught_up(self, member: Member) -> None:
        while member.last < member.pushed - 1:
            member.caught_up.clear()
            await member.caught_up.wait()

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        self.pushes.expect({member.name: member.pushed for member in self.members})
        return [*self.requests.faults(), *self.pushes.faults(), *self.repeated, *self.gaps, *self.unwritten]

    def histories(self, faults: Iterable[str]) -> list[str]:
        """What is known of the clients whose pushes are at fault."""
        names = {member.name for member in self.members}
        return [self.logged.history(name) for name in sorted({fault.partition(":")[0] for fault in faults} & names)]

    def faults_with_gaps(self) -> list[str]:
        """The same where the topics were changed: what is missing is in a gap."""
        return [*self.requests.faults(), *self.logged.faults(), *self.repeated]
