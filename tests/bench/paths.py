"""The gateway's hot paths without sockets and brokers: what an item costs the loop's thread, in CPU seconds.

A broker and a model that answer at once stand at both ends; between them is the gateway's own code, all of it. What is
left out is what the kernel and librdkafka spend. It can be compared within one process with what else Python does there, and
so with another day and another machine: `baseline.json` has the ratios, test_ratios.py looks at them, and

    .venv/bin/python tests/bench/paths.py [--write]

prints CPU-µs, or writes the ratios anew.
"""

import asyncio
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import uvloop

from bench.askers import rows
from harness.pair import SECRET
from podpair.common.gateway_config.model import Config
from podpair.gateway import components as components_module
from podpair.gateway import service as service_module
from podpair.gateway.components import Components
from podpair.gateway.core.ledger import Ledger
from podpair.gateway.core.models import Model
from podpair.gateway.core.offsets import Committed
from podpair.gateway.core.protocol import decode_row
from podpair.gateway.core.record_batch import RecordBatch
from podpair.gateway.core.record_headers import request_headers
from podpair.gateway.core.tensors import Output, TensorSpec
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.core.wires import JsonWire
from podpair.gateway.kafka.producer import DeliveryCallback, DeliveryError, Outgoing, RecordMetadata
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.kafka.topics import Topics
from podpair.gateway.service import Service
from podpair.gateway.sessions.connection import BackpressureMonitor, Connection
from podpair.gateway.sessions.session import Session
from podpair.gateway.upstream.calls import Call, CallAnswer
from podpair.gateway.worker import worker as worker_module

_MODEL = Model(
    "mlp", (TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "FP32", (-1, 10)),), True, None, 1, (), False, True
)
BASELINE = Path(__file__).with_name("baseline.json")
clock: Callable[[], float] = time.thread_time  # path_instructions.py counts instructions instead


class Record:
    """A consumer's Message."""

    def __init__(self, partition: int, offset: int, key: bytes | None, value: bytes, headers: Any) -> None:
        self._partition, self._offset, self._key, self._value, self._headers = partition, offset, key, value, headers

    def __len__(self) -> int:
        return len(self._value)

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def timestamp(self) -> tuple[int, int]:
        return 1, int(time.time() * 1000)

    def value(self) -> bytes:
        return self._value

    def headers(self) -> Any:
        return self._headers


class _Model:
    """An inference container that answers at once."""

    url, http = "", None
    values = tuple(0.1 for _ in range(10))

    async def model(self, name: str) -> Model:
        return _MODEL

    async def call(self, call: Call) -> CallAnswer:
        rows = call.shapes[0][0]
        return CallAnswer([Output("y", "FP32", (rows, 10), self.values * rows)], "1", 0.1)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        """There is nothing to close."""


class _Broker:
    """A producer whose records are all acknowledged in the loop's next turn."""

    full = False
    refusal = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[DeliveryCallback, Any]] = []
        self.offset = 0

    def send(self, topic: str, value: bytes, *, callback: DeliveryCallback, context: Any = None, **_: Any) -> None:
        if not self._waiting:
            self._loop.call_soon(self._acknowledge)
        self._waiting.append((callback, context))

    def send_all(self, records: Iterable[tuple[Outgoing, Any]], callback: DeliveryCallback) -> None:
        for record, context in records:
            self.send(record.topic, record.value, callback=callback, context=context)

    async def send_until_acked(self, record: Outgoing) -> None:
        written = self._loop.create_future()
        self.send(
            record.topic,
            record.value,
            callback=lambda outcomes: written.set_result(outcomes[0][1]),
            key=record.key,
            headers=record.headers,
        )
        await written

    async def close(self, timeout: float) -> None:
        """There is nothing to close."""

    def _acknowledge(self) -> None:
        waiting, self._waiting = self._waiting, []
        by_callback: dict[DeliveryCallback, list[tuple[Any, RecordMetadata | DeliveryError]]] = {}
        for callback, context in waiting:
            self.offset += 1
            by_callback.setdefault(callback, []).append((context, RecordMetadata(0, self.offset)))
        for callback, outcomes in by_callback.items():
            callback(outcomes)


class _Transactions:
    """Commits in the loop's next turn."""

    async def commit(self, *_: Any) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        """There is nothing to close."""


class _Transport:
    """A client that takes everything."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        """There is no TLS, nor a socket."""


def session(number: int, backpressure: BackpressureMonitor) -> Session:
    """One whose client is there, and caught up."""
    made = Session(f"s-{number:06d}", f"u{number}", 0, Ledger(4096, 1 << 14))
    wire = JsonWire(b"abcdef.0.")
    made.connection = Connection(
        cast("asyncio.WriteTransport", _Transport()), wire, backpressure, 1 << 20, lambda code, reason: None
    )
    made.connection.welcome([])
    made.live = True
    return made


async def _gateway(*, exactly_once: bool = False, **results: Any) -> Components:
    """A whole gateway as it puts itself together, but for its Kafka clients and its model."""
    broker = _Broker(asyncio.get_running_loop())

    def idle(*_: Any, **__: Any) -> Any:
        return mock.MagicMock()

    standing_in: dict[str, Any] = {
        "make_upstream": lambda _: _Model(),
        "RecordProducer": lambda *_, **__: broker,
        "Transactions": lambda *_: _Transactions(),
        "TopicWatch": lambda *_, **__: mock.MagicMock(state=defaultdict(lambda: None)),
        **dict.fromkeys(("ResultsReader", "LogReader", "RequestsTopic"), idle),
    }
    config = Config.model_validate(
        {
            "auth": {"secret": SECRET},
            "sessions": {"resume_secret": SECRET},
            "requests": {"exactly_once": exactly_once},
            "results": results,
        }
    )
    topics = Topics({}, TopicState(None, 8), TopicState(None, 8), "c", TopicLimits())
    with (
        mock.patch.object(service_module, "ensure_topics", return_value=topics),
        mock.patch.multiple(components_module, **standing_in),
        mock.patch.object(worker_module, "GroupMember"),
    ):
        service = Service(config)
        await service.start()
    assert service.components is not None
    await service.components.model.readiness.wait()
    await service.components.model.client.describe("mlp")
    return service.components


async def fan_out(items: int, sessions: int = 500, tail: int = 1 << 22) -> float:
    """CPU seconds for so many records, in batches of 1,000; `tail` bytes of them are kept for those that resume."""
    components = await _gateway(tail_cache_bytes=tail)
    fanout, held = components.sessions.fanout, components.sessions.registry.sessions
    held.update((one.key, one) for one in (session(i, components.sessions.backpressure) for i in range(sessions)))
    fanout.open(0, 0)
    keys = list(held)
    value = b'{"s":123,"n":456,"t":1234567890123456789}'
    batches = [_columns(at, [keys[(at + i) % sessions] for i in range(1000)], value) for at in range(0, items, 1000)]
    began = clock()
    for columns in batches:
        batch = RecordBatch()
        batch.add(*columns)
        for partition, found in batch.partitions.items():
            fanout.deliver(partition, found)
    return clock() - began


def _columns(start: int, keys: list[bytes], value: bytes) -> Any:
    """Records of one partition, as a batch takes them."""
    offsets = range(start, start + len(keys))
    return [0] * len(keys), keys, [(offset, value, None) for offset in offsets], [len(value)] * len(keys)


async def queued(items: int, together: int = 256, *, exactly_once: bool = False) -> float:
    """CPU seconds for the worker's part of so many queued requests, `together` in hand at a time."""
    worker = (await _gateway(exactly_once=exactly_once)).worker
    value = b'{"data":%b}' % json.dumps(rows()[0], separators=(",", ":")).encode()

    def made(offset: int) -> Record:
        headers = request_headers(
            request_id=f"{offset:09d}", session=f"s-{offset % 64:06d}", model="mlp", source="bench", now=time.time(),
            deadline=None,
        )  # fmt: skip
        return Record(0, offset, None, value, headers)

    arriving = [made(offset) for offset in range(items)]
    done = asyncio.Event()
    worker.assigned({0: Committed()})
    left = items

    def give_room(ended: int) -> None:
        nonlocal left
        left -= ended
        if left == 0:
            done.set()
        elif (items - left) % together == 0:
            worker.received(cast("Any", arriving[items - left : items - left + together]))

    cast("Any", worker._gate).give_room = give_room
    began = clock()
    worker.received(cast("Any", arriving[:together]))
    await done.wait()
    return clock() - began


async def direct(items: int, sessions: int = 64) -> float:
    """CPU seconds for so many direct requests, one of each session at a time: from the frame to the answer's frame."""
    components = await _gateway()
    dispatcher = components.sessions.dispatcher
    held = [session(i, components.sessions.backpressure) for i in range(sessions)]
    frames = [
        json.dumps({"type": "infer", "id": f"{i:09d}", "model": "mlp", "data": rows()[0]})
        for i in range(items // sessions)
    ]

    def asked(one: Session, left: Sequence[str]) -> None:
        """Ask what isn't asked by the turn: the first, while the model isn't known."""
        message = decode_row(left[0], {"mlp"})
        assert message is not None
        dispatcher.infer(one, message, one.grant)

    began = clock()
    for frame in frames:
        for one in held:
            assert dispatcher.infer_soon(one, (frame,), partial(asked, one))
        await asyncio.sleep(0)
        while any(one.ledger.opened for one in held):
            await asyncio.sleep(0)
    return clock() - began


async def reference(items: int) -> float:
    """CPU seconds for so many turns of a fixed piece of Python, in proportions like those of the paths: how quick Python is
    here, just now.
    """
    row = {"id": "000000001", "data": [0.5] * 32}
    began = clock()
    groups: dict[bytes, list[Record]] = {}
    for i in range(items):
        found = json.loads(json.dumps(row))
        record = Record(0, i, b"%d" % (i % 64), found["id"].encode(), None)
        groups.setdefault(record.key() or b"", []).append(record)
    sum(
        len(b"".join([b'{"data":%b,"offset":%d}' % (one.value(), one.offset()) for one in mine]))
        for mine in groups.values()
    )
    return clock() - began


PATHS: dict[str, tuple[Callable[[int], Coroutine[Any, Any, float]], int]] = {
    "fan-out": (fan_out, 10_000),
    "queued": (queued, 2_048),
    "exactly-once": (partial(queued, exactly_once=True), 2_048),
    "direct": (direct, 2_048),
}


def ratios(rounds: int) -> dict[str, float]:
    """What an item of each path costs, of what a turn of the reference does.

    The least of the rounds of each: what else the machine does can only add to CPU time, and the rounds are interleaved.
    """
    least = dict.fromkeys(("reference", *PATHS), float("inf"))
    for _ in range(rounds):
        for name, (path, items) in {"reference": (reference, 2_000), **PATHS}.items():
            least[name] = min(least[name], measured(path, items))
    return {name: least[name] / least["reference"] for name in PATHS}


def measured(path: Callable[[int], Coroutine[Any, Any, float]], items: int) -> float:
    """CPU-µs an item of one path, on a loop of its own."""
    gc.collect()
    gc.freeze()
    gc.disable()  # a gateway's collections are rare, and off this path
    try:
        return uvloop.run(path(items)) * 1e6 / items
    finally:
        gc.enable()
        gc.unfreeze()


if __name__ == "__main__":
    if "--write" in sys.argv:
        found = {name: round(ratio, 3) for name, ratio in ratios(15).items()}
        BASELINE.write_text(json.dumps(found, indent=2) + "\n")
        print(found)
    else:
        for _ in range(3):
            paths = {"reference": (reference, 2_000), **PATHS}
            print({name: round(measured(path, items), 2) for name, (path, items) in paths.items()}, flush=True)
