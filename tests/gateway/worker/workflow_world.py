"""A partition of workflows with a log in memory, and calls that answer at once."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from harness.waiting import soon
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.workflows.records import Begun
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.metrics import Metrics
from podpair.gateway.results.replies import ReplyWriter
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.worker.workflows import BeginHooks
from podpair.gateway.workflows.limits import Limits
from podpair.gateway.workflows.observer import Observer
from podpair.gateway.workflows.partition import WorkflowPartition
from podpair.gateway.workflows.state_log import StateRecord
from podpair.gateway.workflows.turns import Answers, Beginning, Tools
from podpair.gateway.workflows.writer import StepWriter

CONFIG = Config.model_validate({"auth": {"secret": "s" * 40}, "workflows": {"enabled": True}})


class Log:
    """A log in memory. `failures`: what the next writes raise, and whether they write all the same."""

    topic = "podpair.requests.workflows"

    def __init__(self) -> None:
        self.found: dict[bytes, bytes] = {}
        self.told: list[str] = []  # types of records on other topics
        self.written: list[StateRecord] = []  # those records
        self.failures: list[tuple[Exception, bool]] = []
        self.opened = 0

    async def empty(self) -> bool:
        return not self.found

    async def open(self) -> dict[bytes, bytes]:
        self.opened += 1
        return dict(self.found)

    async def write(self, records: Sequence[StateRecord]) -> None:
        failure, writes = self.failures.pop(0) if self.failures else (None, True)
        for record in records if writes else ():
            if record.topic != self.topic:
                self.written.append(record)
                self.told.append(dict(record.headers).get("ce_type", b"letter").decode().removeprefix("dev.podpair."))  # type: ignore[union-attr]
            elif record.value is None:
                self.found.pop(record.key or b"", None)
            else:
                self.found[record.key or b""] = record.value
        if failure is not None:
            raise failure

    def close(self) -> None: ...


class Calls:
    """Answers each call at once, unless they hang."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.hang = False
        self.withdrawn: list[tuple[str, int]] = []

    def withdraw(self, _: str, start: Any) -> None:
        self.withdrawn.append((start.unit.suffix, start.attempt))

    async def make(self, instance: Any, start: Any, _: int, listener: WorkflowPartition) -> None:
        self.made.append(start.unit.suffix)
        if self.hang:
            await asyncio.Event().wait()
        listener.call_ended(instance.key, start.unit, start.attempt, b"1")


class World:
    """log: of a former one, to go on with."""

    def __init__(self, log: Log | None = None) -> None:
        metrics, self.log, self.calls = Metrics(), log or Log(), Calls()
        results = ResultWriter(cast("Any", None), "results", "test", TopicLimits(), HomePartitions("e", 1))
        letters = DeadLetters("requests.dlq", "test", metrics)
        writer = StepWriter(CONFIG, "test", results, letters, ReplyWriter(()))
        tools = Tools(writer, cast("Any", self.calls), Observer(metrics))
        self.partition = WorkflowPartition(
            3, cast("Any", self.log), Limits(10, 60.0, 10_000, 10_000), tools, Answers(10_000)
        )
        self.begun = 0
        self.refused: list[Fault] = []
        self.answered: list[bytes] = []
        self.hooks = BeginHooks(self._count, self.refused.append, self.answered.append)

    def begin(
        self,
        request: str = "r",
        declaration: str = '{"stages":{"a":{"step":"a"},"b":{"step":"b","input":"a"}}}',
        offset: int = 7,
        **headers: str,
    ) -> None:
        begun = Begun(request, "s", "flow", msgspec.Raw(declaration.encode()), 0.0, headers=headers, offset=offset)
        self.partition.begin(Beginning(begun, self.hooks), f"s/{request}")

    def _count(self) -> None:
        self.begun += 1

    async def ended(self) -> None:
        await soon(lambda: "result" in self.log.told, timeout=20)
