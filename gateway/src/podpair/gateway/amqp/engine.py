"""Works on messages: asks the model for each, has its end reported, and acknowledges it after that.

As on Kafka's route a message has no task as long as nothing goes wrong: it shares calls with those beside it. A stream, one
that may not begin yet, one that the model has failed and one that finds it not ready get a task, and the same retries.

Invariants: a message is acknowledged once its end is reported. One whose link has ended is dropped, unless its answer is
being given: a copy that comes during that waits for it; one that comes later finds that it was given, and is only acknowledged.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from functools import partial
from typing import Protocol

import msgspec

from podpair.common.gateway_config.model import Config
from podpair.common.logs import Throttle, ids
from podpair.gateway.amqp.answers import Answers, Ending, Unkept, internal_fault
from podpair.gateway.amqp.consumer import Link
from podpair.gateway.core.amqp_messages import (
    AmqpRequest,
    Identity,
    Message,
    QueueRules,
    identity_of,
    read_message,
    reply_address,
    unread,
)
from podpair.gateway.core.bounded_cache import BoundedCache
from podpair.gateway.core.celery_tasks import celery_reply, is_celery, read_task
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.records import InvalidRecord
from podpair.gateway.core.request import InferenceRequest, decode_request
from podpair.gateway.core.result_members import result_with_queue_ms
from podpair.gateway.core.span import Span
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.tasks import Tasks
from podpair.gateway.tracing import Telemetry
from podpair.gateway.upstream.batcher import Outcome, PendingRequest
from podpair.gateway.upstream.factory import ModelAccess
from podpair.gateway.worker.retry import Retrier

_log = logging.getLogger(__name__)
_ENTRY = 400  # bytes that a message which was answered takes in memory, about


class Cancellable(Protocol):
    """The work in progress for a message: a pending call, or a task."""

    def cancel(self) -> object: ...


class Job(msgspec.Struct, eq=False):
    """A message in hand. It is open until its answer is known, and over once it is acknowledged or dropped."""

    link: Link
    tag: int
    message: Message
    found: AmqpRequest
    identity: Identity
    request: InferenceRequest | None = None
    asked: float = 0.0  # when the model was first asked, in Unix seconds
    work: Cancellable | None = None
    span: Span | None = None
    open: bool = True
    giving: bool = False  # its answer is on its way
    repeats: "list[Job] | None" = None  # copies that came while its answer is being given


class MessageEngine:
    """Drives messages from their delivery to their acknowledgement.

    Args:
        config: Of the gateway.
        model: What answers.
        answers: Reports how messages end.
        results: Writes the chunks of streams.
        telemetry: Metrics, and spans of traced requests.
    """

    def __init__(
        self, config: Config, model: ModelAccess, answers: Answers, results: ResultWriter, telemetry: Telemetry
    ) -> None:
        amqp = config.amqp
        self._rules = QueueRules(
            amqp.queue, amqp.model, amqp.model_by_routing_key, amqp.max_priority, amqp.celery_tasks
        )
        self._model = model
        self._answers = answers
        self._results = results
        self._metrics = telemetry.metrics
        self._tracer = telemetry.tracer
        self._retrier = Retrier(config.requests, model, telemetry.metrics)
        self._tasks = Tasks()
        self._log_throttle = Throttle()
        self._jobs: set[Job] = set()
        self._giving: dict[Identity, Job] = {}  # whose answers are being given
        # What was answered, on which link, and when: needed where the acknowledgement may be lost.
        self._given: BoundedCache[Identity, tuple[Link, float]] = BoundedCache(config.requests.idempotency_bytes)
        self._early: set[Job] = set()  # those that may not begin yet
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_hand(self) -> int:
        """How many messages are worked on."""
        return len(self._jobs)

    def take(self, link: Link, tag: int, message: Message) -> None:
        """Take a message in hand. An error that nobody expects ends this one only."""
        try:
            found = self._read(message)
        except InvalidRecord as error:
            self._refuse(link, tag, message, Fault(Code.INVALID, str(error)))
        except Exception as error:
            _log.exception("a message could not be read")
            self._refuse(link, tag, message, internal_fault(error))
        else:
            job = Job(link, tag, message, found, identity_of(found))
            self._jobs.add(job)
            self._idle.clear()
            self._begin(job)

    def _read(self, message: Message) -> AmqpRequest:
        if is_celery(message, self._rules):
            return read_task(message, self._rules, time.time())
        return read_message(message, self._rules, time.time())

    def _refuse(self, link: Link, tag: int, message: Message, fault: Fault) -> None:
        """End a message that is no request."""
        celery = is_celery(message, self._rules)
        try:
            reply = celery_reply(message, self._rules) if celery else reply_address(message, self._rules, celery=False)
        except InvalidRecord:
            reply = None
        found = unread(message, reply)
        if celery:
            found = found._replace(request=found.request._replace(id=str(message.headers["id"])))
        job = Job(link, tag, message, found, identity_of(found))
        self._jobs.add(job)
        self._idle.clear()
        self._end(job, Ending(fault=fault, unread=True))

    def _begin(self, job: Job) -> None:
        """Ask for it, unless it is a copy of one that was answered, or is being answered."""
        if job.message.redelivered:
            first, given = self._giving.get(job.identity), self._given.get(job.identity)
            if first is not None and not first.link.alive:
                job.open = False
                first.repeats = [*(first.repeats or ()), job]
                return
            if given is not None and given[0].may_have_lost(given[1]):
                job.open = False
                self._tasks.spawn(self._acknowledge(job, "repeated"))
                return
        job.open = True
        try:
            self._ask(job)
        except Exception as error:
            self._fail(job, error, 0)

    def _ask(self, job: Job) -> None:
        request, begin = job.found.request, job.found.begin
        trace = request.trace
        if trace and self._tracer is not None:
            about = {"podpair.session": request.session, "podpair.request": request.id, "podpair.model": request.model}
            job.span = self._tracer.begin("work", "consumer", trace, about)
            trace = trace if job.span is None else job.span.traceparent
        asked = decode_request(request.body, request.id, request.model, request.deadline, request.session)
        asked.lane, asked.trace, asked.subject = request.lane, trace, request.user
        if not request.session:
            asked.stream = False  # nobody takes the parts
        job.request, job.asked = asked, time.time()
        if asked.stream or begin is not None or not self._model.readiness.ready:
            self._spawn(job)
        else:
            job.work = self._model.client.submit(asked, self._on_outcomes, job, retried=True)

    def _on_outcomes(self, outcomes: list[tuple[PendingRequest, Outcome]]) -> None:
        """Take what the model made of messages that were asked without a task."""
        for pending, outcome in outcomes:
            job: Job = pending.context
            if not job.open:
                continue
            if isinstance(outcome, Exception):
                self._spawn(job, outcome)
                continue
            written = job.found.request.written
            body = b"{%b}" % outcome
            if written is not None:
                body = result_with_queue_ms(outcome, max(0.0, job.asked - written) * 1000)
            self._end(job, Ending(body))

    def _spawn(self, job: Job, failed: Exception | None = None) -> None:
        task = self._tasks.spawn(self._work(job, failed))
        task.add_done_callback(partial(self._on_work_done, job))
        job.work = task

    def _on_work_done(self, job: Job, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            if job.open:  # it only waited for its next attempt, which is made by somebody else
                self._drop(job)
        elif (error := task.exception()) is not None:
            self._fail(job, error, 0)

    async def _work(self, job: Job, failed: Exception | None) -> None:
        """Get the answer in as many attempts as it may have; `failed`: what came of the first."""
        request, asked = job.found.request, job.request
        assert asked is not None  # noqa: S101 - `_ask` has made it
        attempts = self._retrier.new_policy(asked.model)
        if job.found.begin is not None and failed is None:
            self._early.add(job)
            try:
                await asyncio.sleep(max(0.0, job.found.begin - time.time()))
            finally:
                self._early.discard(job)
        try:
            chunks = self._results.chunks(request) if asked.stream else None
            body = await self._retrier.run(request, asked, chunks, attempts, failed)
        except Exception as error:
            self._fail(job, error, attempts.tries)
        else:
            if job.open:
                self._end(job, Ending(body))

    def _fail(self, job: Job, error: BaseException, tries: int) -> None:
        if not job.open:
            return
        about = ids(session=job.found.request.session or None, request=job.found.request.id)
        if isinstance(error, Fault):
            fault = error
            self._log_throttle.log(_log, logging.INFO, "a message failed: %s", fault.message, extra=about)
        else:
            _log.error("a message failed", exc_info=error, extra=about)
            fault = internal_fault(error)
        self._end(job, Ending(fault=fault, attempts=tries))

    def _end(self, job: Job, ending: Ending) -> None:
        """Have the end of a message reported."""
        job.open, job.work, job.giving = False, None, True
        if job.span is not None:
            if ending.fault is not None:
                job.span.failed(ending.outcome)
            job.span.end()
            job.span = None
        self._giving.setdefault(job.identity, job)
        self._tasks.spawn(self._give(job, ending))

    async def _give(self, job: Job, ending: Ending) -> None:
        try:
            reported = await self._answers.give(job.message, job.found, ending, lambda: job.link.alive)
        except Unkept:
            self._release(job, given=True)
            self._log_throttle.log(
                _log, logging.ERROR, "a message is rejected, for it can't be kept: %s",
                ending.fault.message if ending.fault is not None else "", extra=ids(request=job.found.request.id),
            )  # fmt: skip
            await job.link.reject(job.tag)
            self._leave(job, ending.outcome)
            return
        except Exception as error:
            # It would fail the next time, too; unacknowledged it would take a place of `prefetch` for good.
            _log.error("a message is rejected: its end can't be reported", exc_info=error,
                       extra=ids(request=job.found.request.id))  # fmt: skip
            self._release(job, given=False)
            await job.link.reject(job.tag)
            self._leave(job, Code.INTERNAL)
            return
        except BaseException:
            # Not acknowledged: the broker gives it to somebody else when this channel ends.
            self._release(job, given=False)
            self._drop(job)
            raise
        self._release(job, given=reported)
        if reported:
            await self._acknowledge(job, ending.outcome)
        else:
            self._drop(job)

    def _release(self, job: Job, *, given: bool) -> None:
        """Note that an answer was given, or won't be; go on with the copies that waited for that."""
        if given:
            self._given.put(job.identity, (job.link, time.monotonic()), _ENTRY)
        if self._giving.get(job.identity) is job:
            del self._giving[job.identity]
        repeats, job.repeats = job.repeats, None
        for repeat in repeats or ():
            if repeat in self._jobs:
                self._begin(repeat)

    async def _acknowledge(self, job: Job, outcome: str) -> None:
        await job.link.ack(job.tag)
        self._leave(job, outcome)

    def _leave(self, job: Job, outcome: str) -> None:
        self._metrics.worked.labels(outcome).inc()
        self._forget(job)

    def _drop(self, job: Job) -> None:
        job.open = False
        if job.span is not None:
            job.span.failed("dropped")
            job.span.end()
            job.span = None
        if job.work is not None:
            job.work.cancel()
            job.work = None
        self._forget(job)

    def _forget(self, job: Job) -> None:
        self._jobs.discard(job)
        if not self._jobs:
            self._idle.set()

    def drop(self, link: Link) -> None:
        """Give up what a link brought that has ended, but for what is being answered."""
        self._drop_all(job for job in self._jobs if job.link is link and not job.giving)

    def _drop_all(self, jobs: Iterable[Job]) -> None:
        for job in list(jobs):
            self._drop(job)

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until nothing is in hand; what only waits for its next attempt is dropped."""
        self._retrier.close()
        self._drop_all(self._early)
        if self._model.readiness.ready:
            try:
                async with asyncio.timeout(max(0.0, timeout)):
                    await self._idle.wait()
            except TimeoutError:
                _log.warning("%d messages go back to the queue: they were not answered in time", len(self._jobs))

    async def close(self) -> None:
        """Stop."""
        await self._tasks.cancel()
