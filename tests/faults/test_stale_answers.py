"""Gateways that cache answers die, freeze and lose their broker while answers are invalidated: nobody gets a stale one.

The model answers with the generation of its data. Whoever asks once an invalidation is in force must get that one, or a later
one. `make test-faults MINUTES=10` runs it as long as you like; PODPAIR_FAULT_SEED repeats a run's choices.
"""

import asyncio
import itertools
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from confluent_kafka import Producer

from harness.checking import StaleChecker
from harness.kafka import Broker
from harness.pair import Gateway, token
from harness.processes import free_port
from harness.threaded_server import ThreadedServer
from harness.waiting import until
from podpair import client as podpair

_log = logging.getLogger(__name__)
_MINUTES = float(os.environ.get("PODPAIR_FAULT_MINUTES", "0.5"))
_SEED = int(os.environ.get("PODPAIR_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
_LEASE = 0.6  # seconds
_QUESTIONS = 4


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that can't connect are what is wanted here."""
    caplog.set_level(logging.ERROR, "podpair.client")


pytestmark = [pytest.mark.process, pytest.mark.timeout(_MINUTES * 120 + 300)]
Start = Callable[..., Gateway]


class GenerationModel(ThreadedServer):
    """A model in V2, on a thread of its own, that reads its data when it is asked, and answers a moment later."""

    handler_cancellation = False

    def __init__(self) -> None:
        self.generation = 0
        self.runs = 0
        super().__init__()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v2/health/ready", self._ready)
        router.add_get("/v2/models/{model}", self._metadata)
        router.add_post("/v2/models/{model}/infer", self._infer)

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metadata(self, _: web.Request) -> web.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
        return web.json_response({"name": "model", "versions": ["1"], "inputs": [tensor], "outputs": []})

    async def _infer(self, request: web.Request) -> web.Response:
        generation = self.generation
        self.runs += 1
        await request.read()
        await asyncio.sleep(random.random() * 0.02)  # how long a run takes
        output = {"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [generation]}
        return web.json_response({"model_name": "model", "model_version": "1", "outputs": [output]})


class Askers:
    """Clients of whatever gateways there are, on each protocol, that ask the same few questions all the time."""

    def __init__(self, gateways: list[Gateway], checker: StaleChecker) -> None:
        self._gateways = gateways
        self._checker = checker
        self.told: Counter[str] = Counter()  # by protocol, and whether it came from the cache
        self._ended = asyncio.Event()

    def _url(self) -> str:
        return random.choice(self._gateways).url

    async def over_http(self, http: aiohttp.ClientSession) -> None:
        """Ask over V2, at any gateway."""
        bearer = {"Authorization": f"Bearer {token()}"}
        while not self._ended.is_set():
            tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [random.randrange(_QUESTIONS), 0.0]}
            began = time.monotonic()
            try:
                url = f"{self._url()}/v2/models/model/infer"
                async with http.post(url, json={"inputs": [tensor]}, headers=bearer) as response:
                    body, cached = await response.json(), response.headers.get("Cache-Status", "")
            except (aiohttp.ClientError, TimeoutError, ValueError):
                await asyncio.sleep(0.05)  # it is away
                continue
            if response.status == 200:
                self._checker.answered("http", began, body["outputs"][0]["data"][0])
                self.told["http hit" if "hit" in cached else "http"] += 1
            await asyncio.sleep(0.01)  # its pace

    async def over_websocket(self, route: Any) -> None:
        """Ask in a session, which goes to another gateway when its own is gone."""
        while not self._ended.is_set():
            try:
                async with podpair.connect(self._url().replace("http", "ws", 1) + "/v1/ws", token=token()) as session:
                    for _ in range(200):
                        await self._ask(session, route)
                        if self._ended.is_set():
                            return
            except (podpair.PodpairError, TimeoutError, OSError):
                await asyncio.sleep(0.05)  # it is away

    async def _ask(self, session: Any, route: Any) -> None:
        began = time.monotonic()
        async with asyncio.timeout(5):
            result = await session.infer("model", [random.randrange(_QUESTIONS), 0.0], route=route)
        self._checker.answered(route, began, result.data["y"][0])
        self.told[f"{route} {result.cache}" if result.cache else route] += 1
        await asyncio.sleep(0.01)  # its pace

    async def run(self, during: Any) -> None:
        """Ask until `during` has ended."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            tasks = [asyncio.create_task(self.over_http(http)) for _ in range(6)]
            tasks += [
                asyncio.create_task(self.over_websocket(route)) for route in ("direct", "queue") for _ in range(3)
            ]
            try:
                await during
            finally:
                self._ended.set()
                await asyncio.gather(*tasks)


async def invalidate(broker: Broker, topic: str, model: GenerationModel, checker: StaleChecker) -> None:
    """Change the data, and say so, again and again; note when each invalidation is in force."""
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all", "log_level": 0})
    loop = asyncio.get_running_loop()
    for generation in itertools.count(1):
        acknowledged = loop.create_future()

        def delivered(error: object, _: object, future: asyncio.Future[object] = acknowledged) -> None:
            loop.call_soon_threadsafe(future.set_result, (error, time.monotonic()))

        model.generation = generation
        producer.produce(topic, b'{"model":"model"}', on_delivery=delivered)
        while not acknowledged.done():
            await asyncio.to_thread(producer.poll, 0.01)
            await asyncio.sleep(0)
        error, at = await acknowledged
        if error is None:
            checker.in_force(generation, at + _LEASE)
        await asyncio.sleep(random.random() * 0.4)  # how often data change


@pytest.fixture
def model() -> Iterator[GenerationModel]:
    made = GenerationModel()
    yield made
    made.close()


@pytest.fixture
def start(own_broker: Broker, model: GenerationModel, names: dict[str, Any], start_gateway: Start) -> Start:
    def begin(topic: str | None, port: int) -> Gateway:
        cached: dict[str, Any] = {"models": [{"model": "model", "scope": "shared"}]}
        if topic is not None:
            cached |= {"topic": topic, "lease_seconds": _LEASE}
        gateway = start_gateway(
            {
                **names,
                "http": {"port": port},
                "kafka": {"bootstrap_servers": own_broker.address, "probe_seconds": 0.5},
                "inference": {"url": model.url, "probe_seconds": 0.1},
                "cache": cached,
            }
        )
        gateway.wait_ready()
        return gateway

    return begin


async def break_things(
    gateways: list[Gateway], start: Callable[[int], Gateway], broker: Broker, seconds: float
) -> Counter[str]:
    """Kill and freeze gateways, and freeze the broker, one after the other."""
    rng, done, kinds = random.Random(_SEED), Counter[str](), list[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(rng.uniform(0.5, 1.5))  # between faults there is time to fill caches
        if not kinds:
            kinds = rng.sample(("killed", "frozen", "no broker"), 3)
        kind = kinds.pop()
        victim = rng.randrange(len(gateways))
        if kind == "killed":
            gateways[victim].process.kill()
            gateways[victim] = await asyncio.to_thread(start, victim)
        else:
            process = gateways[victim].process if kind == "frozen" else broker.child.process
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.2, 3 * _LEASE))
            process.send_signal(signal.SIGCONT)
        done[kind] += 1
    return done


async def test_nobody_gets_a_stale_answer(
    start: Start, own_broker: Broker, model: GenerationModel, names: dict[str, Any]
) -> None:
    topic = f"{names['requests']['topic']}.cache"
    ports = [free_port(), free_port()]  # each comes back where it was
    gateways = [await asyncio.to_thread(start, topic, port) for port in ports]
    checker = StaleChecker()
    askers = Askers(gateways, checker)
    writing = asyncio.create_task(invalidate(own_broker, topic, model, checker))
    breaking = break_things(gateways, lambda number: start(topic, ports[number]), own_broker, _MINUTES * 60)
    watched = asyncio.create_task(breaking)
    await askers.run(watched)
    writing.cancel()
    _log.info("seed %d: %s, %s, %d runs", _SEED, dict(watched.result()), dict(askers.told), model.runs)
    assert not checker.faults(), (_SEED, checker.faults()[:10])
    # Or nothing is said: there was something to be stale, and something was broken.
    hits = {protocol: askers.told[f"{protocol} hit"] for protocol in ("http", "direct", "queue")}
    assert min(hits.values()) > 20, askers.told
    assert checker.invalidations > 5, checker.invalidations
    assert len(watched.result()) == 3 or _MINUTES < 0.5, watched.result()


async def test_a_gateway_that_does_not_hear_of_invalidations_is_found(
    start: Start, own_broker: Broker, model: GenerationModel, names: dict[str, Any]
) -> None:
    """Planted: one of the two has no invalidation topic, and gives what it has kept for as long as it may."""
    topic = f"{names['requests']['topic']}.cache"
    gateways = [await asyncio.to_thread(start, one, free_port()) for one in (topic, None)]
    checker = StaleChecker()
    askers = Askers(gateways, checker)
    writing = asyncio.create_task(invalidate(own_broker, topic, model, checker))
    await askers.run(asyncio.to_thread(until, lambda: len(checker.faults()) > 10, timeout=60))
    writing.cancel()
    assert {fault.split(":")[0] for fault in checker.faults()} >= {"http"}
