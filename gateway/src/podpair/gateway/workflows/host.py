"""This gateway's workflows: those of the requests partitions that the group has assigned to it."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.cloud_events import in_binary_mode_if_any
from podpair.gateway.core.models import Model
from podpair.gateway.core.not_before import check_time
from podpair.gateway.core.records import NOT_BEFORE, QUEUED_AT, Headers, Reply, Request, Signal
from podpair.gateway.core.workflows.records import Begun, InvalidState, Scheduled, instance_key
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.tasks import Tasks
from podpair.gateway.worker.workflows import BeginHooks
from podpair.gateway.workflows.calls import attempt_of_reply, error_of_reply, key_of_reply, output_of_result
from podpair.gateway.workflows.limits import Limits
from podpair.gateway.workflows.partition import WorkflowPartition
from podpair.gateway.workflows.schedule import Keeping
from podpair.gateway.workflows.state_log import StateLog
from podpair.gateway.workflows.turns import Answers, Beginning, Tools


class WorkflowHost:
    """Takes over the requests for workflows, and what is said to those that run."""

    def __init__(self, config: Config, limits: TopicLimits, tools: Tools) -> None:
        self._config = config
        self._batch_bytes = limits.batch_bytes
        self._limits = Limits(
            config.workflows.max_instances,
            config.workflows.remember_seconds,
            limits.value_bytes(config.workflows_topic or ""),
            limits.value_bytes(config.results.topic),
        )
        self._tools = tools
        self._answers = Answers(config.requests.idempotency_bytes)
        self._partitions: dict[int, WorkflowPartition] = {}
        self._tasks = Tasks()

    @property
    def trouble(self) -> str | None:
        """Why some of them don't go on; None: all do."""
        return next((one.trouble for one in self._partitions.values() if one.trouble is not None), None)

    def assigned(self, partition: int) -> None:
        """Go on with the workflows of a requests partition."""
        self._let_go(self._partitions.pop(partition, None))
        log = StateLog(self._config, partition, self._batch_bytes)
        self._partitions[partition] = WorkflowPartition(partition, log, self._limits, self._tools, self._answers)

    async def drain(self, partitions: Collection[int], timeout: float) -> None:
        """Begin no further stage of these partitions, and wait up to `timeout` seconds for those that run."""
        drains = [one.drain(timeout) for number in partitions if (one := self._partitions.get(number)) is not None]
        await asyncio.gather(*drains)

    def dropped(self, partitions: Collection[int]) -> None:
        """Let go of partitions: another gateway goes on."""
        for number in partitions:
            self._let_go(self._partitions.pop(number, None))

    def _let_go(self, partition: WorkflowPartition | None) -> None:
        if partition is not None:
            self._tasks.spawn(partition.close())

    def begin(
        self,
        number: int,
        record: Any,
        request: Request,
        model: Model,
        hooks: BeginHooks,
    ) -> Beginning:
        """Begin an instance, unless it has begun, or ended, before. `record`: the request's."""
        beginning = Beginning(_begun(record, request, model), hooks)
        partition = self._partitions.get(number)
        if partition is not None:  # else its partition is being taken away
            partition.begin(beginning, instance_key(request.session, request.id))
        return beginning

    def keep(self, number: int, record: Any, request: Request, hooks: BeginHooks) -> Keeping:
        """Keep a request until it is to begin, and write its record again then. Raises Fault(invalid) if it can't be kept."""
        check_time(request.not_before or 0.0, request.deadline, self._config, time.time())
        keeping = Keeping(_scheduled(record, request), hooks)
        if (partition := self._partitions.get(number)) is not None:
            partition.keep(keeping)
        return keeping

    @property
    def kept(self) -> int:
        """How many requests are to begin later."""
        return sum(len(one.schedule) for one in self._partitions.values())

    def cancel(
        self, number: int, session: str, request_id: str, done: Callable[[], object], *, ended_here: bool
    ) -> None:
        """Cancel an instance, or a request that is kept, if it is in this partition; `done` is called once that is durable.

        ended_here: the cancellation has ended a request that was in hand.
        """
        if (partition := self._partitions.get(number)) is not None:
            partition.cancel(instance_key(session, request_id), done, ended_here=ended_here)

    def signal(self, number: int, signal: Signal, done: Callable[[], object]) -> None:
        """Pass on a client's message; `done` is called once that is durable."""
        if (partition := self._partitions.get(number)) is not None:
            partition.signal(instance_key(signal.session, signal.id), signal.name, signal.data, done)

    def reply(self, number: int, reply: Reply, done: Callable[[], object]) -> None:
        """Pass on another gateway's answer; `done` is called once that is durable, or if it is nobody's."""
        partition, key = self._partitions.get(number), key_of_reply(reply.session)
        if partition is None:
            return
        try:
            unit, attempt = attempt_of_reply(reply.id)
            outcome = error_of_reply(reply.body) if reply.failed else output_of_result(reply.body)
        except InvalidState:
            key = None
        except (msgspec.MsgspecError, ValueError) as error:
            outcome = (f"its answer can't be read: {error}", True)
        if key is None:
            done()
        else:
            partition.reply(key, unit, attempt, outcome, done)

    async def close(self) -> None:
        """Let go of all partitions."""
        self.dropped(list(self._partitions))
        await self._tasks.join(5.0)
        await self._tools.calls.close()


def _begun(record: Any, request: Request, model: Model) -> Begun:
    assert model.workflow is not None  # noqa: S101 - the caller has looked
    began = request.written if request.written is not None else request.queued_at
    begun = Begun(
        request.id, request.session, request.model, msgspec.Raw(model.workflow.model_dump_json(exclude_unset=True).encode()),
        began or time.time(), model.workflow_version, msgspec.Raw(request.body), _texts(record.headers()), request.deadline,
        request.lane, request.trace, request.reply_to, record.offset() or 0,
    )  # fmt: skip
    if model.workflow.timeout is not None:
        begun.deadline = min(begun.began + model.workflow.timeout, begun.deadline or float("inf"))
    return begun


_NOT_AGAIN = frozenset({NOT_BEFORE, "ce_" + NOT_BEFORE, QUEUED_AT})
"""Headers that the record which is written when the time has come does not have."""


def _scheduled(record: Any, request: Request) -> Scheduled:
    value, headers = in_binary_mode_if_any(record.value(), record.headers())
    kept = {name: text for name, text in _texts(headers).items() if name not in _NOT_AGAIN}
    not_before = request.not_before or 0.0
    return Scheduled(request.id, request.session, not_before, value or b"", kept, record.key(), request.reply_to)


def _texts(headers: Headers | None) -> dict[str, str]:
    return {name: value.decode("latin-1") for name, value in headers or () if value is not None}
