"""A bare client of the gateway, so that the tests see what is on the wire and not what podpair's own clients make of it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from confluent_kafka import Producer

from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, Inference, token
from podpair.common.gateway_config.environment import merged

PATIENCE = 60.0  # seconds for an event that has to come
ROW = [0.0] * 64  # an empty image: the digits model has an answer to it too
UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


class Client:
    """One WebSocket. `welcome` is there on podpair.v1."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.welcome: dict[str, Any] = {}
        self.skipped: list[dict[str, Any]] = []  # events that came while another was waited for

    async def send(self, message: Any) -> None:
        """Texts and bytes as they are, anything else as JSON."""
        if isinstance(message, bytes):
            await self.socket.send_bytes(message)
        else:
            await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def infer(self, request_id: str, **members: Any) -> None:
        body = {"type": "infer", "id": request_id, "model": "digits", "data": ROW, **members}
        await self.send({name: value for name, value in body.items() if value is not None})

    async def frame(self) -> aiohttp.WSMessage:
        # aiohttp's own time limit begins anew with each ping.
        async with asyncio.timeout(PATIENCE):
            return await self.socket.receive()

    async def next(self) -> dict[str, Any]:
        """The next event, whatever it is."""
        message = await self.frame()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        event: dict[str, Any] = json.loads(message.data)
        return event

    async def event(self, kind: str, **members: Any) -> dict[str, Any]:
        """The next event of this type with these members; others are skipped."""
        while True:
            event = await self.next()
            if event["type"] == kind and members.items() <= event.items():
                return event
            self.skipped.append(event)

    async def answer(self, request_id: str) -> dict[str, Any]:
        """The terminal event of a request, also if it came while another was waited for: requests end in any order."""
        for at, event in enumerate(self.skipped):
            if _ends(event, request_id):
                return self.skipped.pop(at)
        while not _ends(event := await self.next(), request_id):
            self.skipped.append(event)
        return event

    async def closed(self) -> int:
        """The close code; whatever comes before it is skipped."""
        while True:
            message = await self.frame()
            if message.type is aiohttp.WSMsgType.TEXT:
                self.skipped.append(json.loads(message.data))
            elif message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                code = message.data if message.type is aiohttp.WSMsgType.CLOSE else self.socket.close_code
                assert code is not None, "it was cut without a close frame"
                return int(code)

    async def lives(self) -> None:
        """A good request is answered."""
        await self.infer("still-here")
        assert (await self.answer("still-here"))["type"] == "result"


def _ends(event: dict[str, Any], request_id: str) -> bool:
    return event["type"] in ("result", "error") and event.get("id") == request_id


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def connect(http: aiohttp.ClientSession) -> AsyncIterator[Connect]:
    """`connect(gateway, sub=…, sid=…, jwt=…, protocols=…, params=…)` opens a WebSocket and reads its welcome."""
    secured: list[asyncio.Transport] = []
    async with AsyncExitStack() as stack:

        async def begin(
            gateway: Gateway, *, jwt: str | None = None, protocols: tuple[str, ...] = (), raw: bool = False,
            params: dict[str, str] | None = None, headers: dict[str, str] | None = None, **claims: Any,
        ) -> Client:  # fmt: skip
            bearer = {"Authorization": f"Bearer {jwt or token(**claims)}"}
            socket = await stack.enter_async_context(
                http.ws_connect(
                    gateway.ws, headers=bearer | (headers or {}), params=params, max_msg_size=0, ssl=gateway.context or True,
                    protocols=("podpair.v1.raw",) if raw else protocols,
                )
            )  # fmt: skip
            if gateway.context is not None:
                secured.append(cast("asyncio.Transport", socket._conn.transport))
            client = Client(socket)
            if not raw:
                client.welcome = await client.next()
                assert client.welcome["type"] == "welcome"
            return client

        yield begin
    # asyncio closes TLS in the background, when the test and its loop may be gone.
    for transport in secured:
        transport.abort()


def resuming(client: Client, position: str | None = None) -> dict[str, str]:
    """The query with which a client goes on where it was."""
    place = {"resume": client.welcome["resume"], "position": position or client.welcome["position"]}
    return {name: value for name, value in place.items() if value}


Refusal = tuple[int, dict[str, Any], Any]


@pytest.fixture
async def refused(http: aiohttp.ClientSession) -> Callable[..., Awaitable[Refusal]]:
    """`refused(gateway, headers=…, params=…)`: status, error and headers of an upgrade that is refused.

    A browser can't see them: the same GET without Upgrade must be told the same.
    """

    async def ask(gateway: Gateway, headers: dict[str, str], params: dict[str, str] | None = None) -> Refusal:
        answers = []
        for more in (UPGRADE, {}):
            async with http.get(gateway.url + "/v1/ws", headers=headers | more, params=params) as answer:
                assert answer.content_type == "application/json", await answer.text()
                answers.append((answer.status, (await answer.json())["error"], answer.headers))
        assert answers[0][:2] == answers[1][:2]
        return answers[0]

    return ask


@pytest.fixture(scope="session")
def _fake_model() -> Iterator[FakeModel]:
    model = FakeModel()
    yield model
    model.close()


@contextmanager
def before_fake(model: FakeModel, folder: Path, config: dict[str, Any]) -> Iterator[Gateway]:
    """A gateway before a fake model, on embedded Kafka, for as long as the `with` lasts."""
    own = {"kafka": {"embedded": True}, "inference": {"url": model.url, "probe_seconds": 0.1}}
    gateway = Gateway(folder, merged(own, config))
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture(scope="session")
def _fake_gateway(_fake_model: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config: dict[str, Any] = {
        "inference": {"timeout_seconds": 5},
        "requests": {"max_attempts": 2, "backoff_seconds": 0.05},
        "limits": {"max_direct_in_flight": 4, "in_flight": 6, "message_bytes": 4096},
        "auth": {"query_token": True},
        "admission": {"load_shedding": False},  # what was slow in one test is not held against the next
    }
    with before_fake(_fake_model, tmp_path_factory.mktemp("fake"), config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def start_before_fake(
    _fake_model: FakeModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Gateway]]:
    """`start_before_fake(section={…})` starts a gateway before `model` that all tests of a module share."""
    with ExitStack() as stack:
        yield lambda **config: stack.enter_context(before_fake(_fake_model, tmp_path_factory.mktemp("fake"), config))


@pytest.fixture
def model(_fake_model: FakeModel) -> Iterator[FakeModel]:
    """The model behind `before_model`: it does what the test says."""
    yield _fake_model
    _fake_model.reset()


@pytest.fixture
def before_model(model: FakeModel, _fake_gateway: Gateway) -> Iterator[Gateway]:
    """A gateway with small limits in front of `model`, on embedded Kafka."""
    yield _fake_gateway
    model.reset()
    _fake_gateway.wait_ready()


@pytest.fixture
def real_gateway(
    broker: Broker, inference: Inference, names: dict[str, Any], start_gateway: Callable[..., Gateway]
) -> Callable[..., Gateway]:
    """`real_gateway(section={…})` starts one on the real broker; all of a test share its topics and its group. `ready=False`: its
    model is not there.
    """

    def start(*, ready: bool = True, **config: Any) -> Gateway:
        own = {"kafka": {"bootstrap_servers": broker.address}, "inference": {"url": inference.url}}
        gateway = start_gateway(merged(own | names, config))
        if ready:
            gateway.wait_ready()
        return gateway

    return start


def kafka_of(gateway: Gateway) -> str:
    """The address of a gateway's embedded broker, as its log tells it."""
    address: str = gateway.wait_for_message("embedded Kafka")["kafka"]
    return address


@pytest.fixture
def push() -> Callable[..., None]:
    """`push(broker, session, value, headers, topic)` writes to the results topic, as any service could."""

    def write(
        broker: str, session: str, *values: bytes | None, headers: dict[str, Any] | None = None,
        topic: str = "podpair.results",
    ) -> None:  # fmt: skip
        failures: list[Any] = []
        producer = Producer({"bootstrap.servers": broker, "partitioner": "murmur2_random", "log_level": 0})
        for value in values:
            producer.produce(
                topic, value, session, headers=headers, on_delivery=lambda error, _: error and failures.append(error)
            )
        assert producer.flush(15) == 0
        assert failures == []

    return write


async def small(gateway: Gateway, sid: str) -> tuple[aiohttp.ClientSession, Client]:
    """A client whose system takes little on its behalf."""
    host, port = gateway.url.removeprefix("http://").split(":")

    def little(_: Any) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        made.setblocking(False)
        return made

    http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=little))
    headers = {"Authorization": f"Bearer {token(sid=sid)}"}
    client = Client(await http.ws_connect(f"ws://{host}:{port}/v1/ws", headers=headers, max_msg_size=0))
    client.welcome = await client.next()
    return http, client
