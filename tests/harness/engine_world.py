"""An engine between a model that answers as it is told and a broker that acknowledges when it is told."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

from podpair.common.gateway_config.kafka import Requests
from podpair.gateway.core.offsets import Committed
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.record_headers import cancel_headers, request_headers
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.metrics import Metrics
from podpair.gateway.results.replies import ReplyWriter
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.tracing import Telemetry
from podpair.gateway.upstream.factory import ModelAccess
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.worker.delivery import Outputs
from podpair.gateway.worker.engine import RequestEngine
from podpair.gateway.worker.partition import PartitionState
from podpair.gateway.worker.request import QueuedRequest, State


class Record:
    def __init__(self, offset: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        self._offset, self._key, self._value, self._headers = offset, key, value, headers

    def topic(self) -> str:
        return "requests"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 0, 0


class Pending:
    """A call to the model that has no outcome yet."""

    def __init__(self, request: Any, callback: Any, context: Any) -> None:
        self.request, self.callback, self.context, self.cancelled = request, callback, context, False

    def cancel(self) -> None:
        self.cancelled = True


class Model:
    """What is asked, by whom, and who waits."""

    def __init__(self) -> None:
        self.pending: list[Pending] = []
        self.waiting: list[tuple[Any, asyncio.Future[bytes]]] = []
        self.asked: list[str] = []

    def submit(self, request: Any, callback: Any, context: Any = None, **_: Any) -> Pending:
        self.asked.append(request.id)
        self.pending.append(Pending(request, callback, context))
        return self.pending[-1]

    async def infer(self, request: Any, **_: Any) -> bytes:
        self.asked.append(request.id)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, answer))
        return await answer

    def answer(self, rng: random.Random, outcome: bytes | Exception) -> None:
        """Give any one that waits an outcome."""
        self.pending = [pending for pending in self.pending if not pending.cancelled]
        self.waiting = [(request, answer) for request, answer in self.waiting if not answer.done()]
        if self.pending and (rng.random() < 0.5 or not self.waiting):
            pending = self.pending.pop(rng.randrange(len(self.pending)))
            pending.callback([(pending, outcome)])
        elif self.waiting:
            _, answer = self.waiting.pop(rng.randrange(len(self.waiting)))
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(b"{%b}" % outcome)


class Ready:
    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._ready.set()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    def set(self, ready: bool) -> None:
        self._ready.set() if ready else self._ready.clear()

    async def wait(self) -> None:
        await self._ready.wait()

    def on_error(self, error: Exception) -> None:
        """It is asked all the time."""

    async def confirmed(self) -> bool:
        return self.ready


class Latency:
    def observe(self, *_: Any) -> None:
        """Nobody asks."""


class Broker:
    """A delivery that acknowledges what it is told to."""

    def __init__(self) -> None:
        self.engine: RequestEngine | None = None
        self.under_way: list[QueuedRequest] = []
        self.delivered: list[QueuedRequest] = []
        self.completed: Counter[QueuedRequest] = Counter()

    def complete(self, requests: Sequence[QueuedRequest]) -> None:
        self.completed.update(requests)
        self.under_way += requests

    def acknowledge(self, requests: Iterable[QueuedRequest]) -> None:
        requests = list(requests)
        self.under_way = [request for request in self.under_way if request not in requests]
        self.delivered += [request for request in requests if request.state is State.ANSWERED]
        cast("RequestEngine", self.engine).on_delivered(requests)

    def on_delivered(self, requests: list[QueuedRequest]) -> None:
        self.acknowledge(requests)


class Gate:
    def __init__(self) -> None:
        self.room = 0

    def give_room(self, count: int) -> None:
        self.room += count


class World:
    def __init__(self, ordering: str) -> None:
        self.model, self.ready, self.broker, self.gate = Model(), Ready(), Broker(), Gate()
        self.cancelled: list[tuple[str, str]] = []
        metrics = Metrics()
        results = ResultWriter(cast("Any", None), "results", "test", TopicLimits(), HomePartitions("e", 1))
        self.engine = RequestEngine(
            Requests.model_validate({"ordering": ordering, "backoff_seconds": 0.0001}),
            ModelAccess(cast("Any", None), cast("Any", self.model), cast("Any", self.ready), cast("Any", Latency())),
            Outputs(results, DeadLetters("requests.dlq", "test", metrics), cast("Any", self.broker), ReplyWriter(())),
            cast("Any", self.gate),
            Telemetry(metrics, None),
            lambda session, request: self.cancelled.append((session, request)),
        )
        self.broker.engine = self.engine
        self.partitions = [PartitionState(number, Committed(), "") for number in range(2)]
        self.begun: list[QueuedRequest] = []
        self._offset = 0

    def begin(self, partition: int, record: Record) -> None:
        state = self.partitions[partition]
        if state.revoked:
            return
        state.offsets.start(record.offset())
        known = set(self.engine._in_hand)
        before = set(self.broker.completed)
        self.engine.begin(state, cast("Any", record), record.offset())
        self.begun += (self.engine._in_hand | set(self.broker.completed)) - known - before

    def request(self, partition: int, session: str, name: str, *, valid: bool = True) -> None:
        self._offset += 1
        headers = request_headers(request_id=name, session=session, model="m", source="test", now=0.0, deadline=None)
        value = b'{"data":[1]}' if valid else None
        headers = headers if valid else [(name, value) for name, value in headers if name != "model"]
        self.begin(partition, Record(self._offset, session.encode(), value, headers))

    def cancel(self, partition: int, session: str, name: str) -> None:
        self._offset += 1
        headers = cancel_headers(request_id=name, session=session, source="test", now=0.0)
        self.begin(partition, Record(self._offset, session.encode(), None, headers))

    async def settle(self) -> None:
        """Let the loop do what there is to do now."""
        for _ in range(8):
            await asyncio.sleep(0)
