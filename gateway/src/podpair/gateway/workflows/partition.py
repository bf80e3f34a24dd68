"""The workflows of one requests partition: all that happens to them is taken in turns, each of which is one transaction.

Invariant: nothing is done before the records that say so are committed, calls of stages and ends of requests least of all. If it
is not known whether they are, the state is read again, and whatever was being done is begun from there: calls at least once,
events and ends exactly once.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from confluent_kafka import KafkaException

from podpair.common.logs import Throttle, ids
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.machine import Machine
from podpair.gateway.core.workflows.records import Ended, Unit, encode, scheduled_key
from podpair.gateway.core.workflows.state import read_state
from podpair.gateway.core.workflows.steps import StartCall, Step
from podpair.gateway.core.workflows.timers import Timers
from podpair.gateway.tasks import cancel_task
from podpair.gateway.workflows.limits import Limits
from podpair.gateway.workflows.schedule import Keeping, Schedule
from podpair.gateway.workflows.state_log import LogBroken, LogFenced, LogRefused, StateLog, StateRecord
from podpair.gateway.workflows.turns import Answers, Beginning, Input, Tools, Turn, answer_not_kept

_log = logging.getLogger(__name__)
_REST = 0.005  # seconds between two transactions, in which the broker ends the first: it would send the second away
_BACKOFF = 0.5  # seconds before what failed is done again
_FENCED = 10.0  # seconds in which the group takes a partition away from a gateway that was frozen
_AHEAD = 256  # things that may wait for their turn before calls wait with what they tell
_SWEEP = 5.0  # seconds between looks for markers that have served
_SWEPT = 1000  # of them at a time
_ENTRY = 400  # bytes that an answer costs besides its text


class WorkflowPartition:
    """Runs the instances of one partition, from the moment that it is this gateway's."""

    def __init__(self, number: int, log: StateLog, limits: Limits, tools: Tools, answers: Answers) -> None:
        self._number = number
        self._log = log
        self._limits = limits
        self._tools = tools
        self._answers = answers
        self._record_bytes = limits.record_bytes
        self.trouble: str | None = None
        """Why nothing goes on."""
        self._opened = False  # its log is
        self._machines: dict[str, Machine] = {}
        self._ended: dict[str, Ended] = {}  # those that ended first are first
        self._timers = Timers()  # of instances
        self.schedule = Schedule(number, log.topic, limits, tools.writer)
        self._calls: dict[str, dict[Unit, tuple[StartCall, asyncio.Task[None]]]] = {}  # that are under way, by instance
        self._inputs: deque[Input] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._draining = False
        self._throttle = Throttle()
        self._sweep_at = time.time() + _SWEEP
        self._task = asyncio.create_task(self._run())

    # -- what happens to instances

    def begin(self, beginning: Beginning, key: str) -> None:
        """Begin an instance, unless it has begun, or ended, before."""
        self._put(Input(key, beginning=beginning))

    def keep(self, keeping: Keeping) -> None:
        """Keep a request that is to begin later."""
        given = Input(keeping.key, done=keeping.kept, keeps=True)
        given.on_schedule = lambda schedule: schedule.keep(keeping, self._record_bytes)
        self._put(given)

    def cancel(self, key: str, done: Callable[[], object], *, ended_here: bool = False) -> None:
        """Cancel an instance, or a request that is kept. ended_here: what was in hand of it has ended."""
        given = Input(key, lambda machine, now: machine.cancel(now), done)
        given.on_schedule = lambda schedule: schedule.cancel(scheduled_key(key), ended_here=ended_here)
        self._put(given)

    def signal(self, key: str, name: str, data: bytes, done: Callable[[], object]) -> None:
        """Pass a client's message on to an instance, if there is such a one."""
        self._put(Input(key, lambda machine, now: machine.signal(name, data, now), done))

    def reply(
        self, key: str, unit: Unit, attempt: int, outcome: bytes | tuple[str, bool], done: Callable[[], object]
    ) -> None:
        """Take another gateway's answer: its output, or its error and whether another attempt may succeed."""

        def apply(machine: Machine, now: float) -> Step:
            if isinstance(outcome, bytes):
                return machine.call_ended(unit, attempt, outcome, now)
            return machine.call_failed(unit, attempt, outcome[0], now, retry=outcome[1])

        self._put(Input(key, apply, done))

    def call_ended(self, key: str, unit: Unit, attempt: int, output: bytes) -> None:
        """Take the output of a call."""
        self._put(Input(key, lambda machine, now: machine.call_ended(unit, attempt, output, now)))

    def call_failed(self, key: str, unit: Unit, attempt: int, message: str, *, retry: bool) -> None:
        """Take the failure of a call."""
        self._put(Input(key, lambda machine, now: machine.call_failed(unit, attempt, message, now, retry=retry)))

    def checkpoint(self, key: str, unit: Unit, attempt: int, data: bytes) -> None:
        """Take the checkpoint of a call."""
        self._put(Input(key, lambda machine, now: machine.checkpoint(unit, attempt, data, now)))

    async def progress(self, key: str, unit: Unit, attempt: int, data: bytes) -> None:
        """Take what a call tells of its progress; return when it may tell more."""
        self._put(Input(key, lambda machine, now: machine.progress(unit, attempt, data, now)))
        if len(self._inputs) >= _AHEAD:
            self._room.clear()
            await self._room.wait()

    def _put(self, given: Input) -> None:
        self._inputs.append(given)
        self._wake.set()

    # -- turns

    async def _run(self) -> None:
        while True:
            try:
                if not self._opened and (self._machines or not await self._log.empty()):
                    await self._open()
                await self._take_turns()
            except LogFenced as error:
                self._give_up(f"another gateway has taken its log: {error}")
                # It is read again only if the partition is this gateway's for all that.
                await asyncio.sleep(_FENCED)
            except (LogBroken, KafkaException) as error:
                self._give_up(str(error.args[0].str()) if isinstance(error, KafkaException) else str(error))
                await asyncio.sleep(_BACKOFF)
            except Exception:
                _log.exception("workflows of a partition are begun again", extra={"partition": self._number})
                self._give_up("an internal error")
                await asyncio.sleep(_BACKOFF)

    def _give_up(self, why: str) -> None:
        """Stop whatever is done here: what is known may not be so any more."""
        self.trouble = f"partition {self._number}: {why}"
        self._throttle.log(_log, logging.WARNING, "the state of workflows can't be written or read: %s", self.trouble)
        self._opened = False
        self._drop()

    def _drop(self) -> None:
        for calls in self._calls.values():
            for _, call in calls.values():  # whoever goes on makes them again
                call.cancel()
        self._calls.clear()
        for key in self._machines:
            self._tools.observer.forget(key)

    async def _open(self) -> None:
        """Read the state, and go on from there."""
        found = await self._log.open()
        now = time.time()
        self._timers = Timers()
        instances, self._ended, scheduled = read_state(found, Instance)
        self.schedule.load(scheduled)
        self._machines = {key: self._machine(instance) for key, instance in instances.items()}
        self._opened, self.trouble = True, None
        if self._machines:
            _log.info("workflows go on", extra={"partition": self._number, "instances": len(self._machines)})
        for key in reversed(list(self._machines)):
            self._inputs.appendleft(Input(key, lambda machine, now: machine.resume(now)))
            self._note(key, now)
            self._schedule(self._machines[key])
        self._wake.set()

    def _machine(self, instance: Instance) -> Machine:
        return Machine(instance, self._record_bytes, self._limits.result_bytes)

    async def _take_turns(self) -> None:
        self.trouble = None
        while True:
            await self._something()
            inputs = list(self._inputs)
            if not self._opened and any(given.opens for given in inputs):
                await self._open()
                inputs = list(self._inputs)
            turn = self._turn(inputs)
            if turn.records:
                await self._write(turn)
            # Only now: if the state had to be read again they would be applied to that.
            for _ in inputs:
                self._inputs.popleft()
            self._room.set()
            self._act(turn)
            if turn.records:
                await asyncio.sleep(_REST)

    async def _something(self) -> None:
        """Wait until something has happened, or is due."""
        due = min(self._timers.next, self.schedule.wakes_at, self._sweep_at)
        if not self._inputs:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(due - time.time(), 0.0)):
                    await self._wake.wait()

    def _turn(self, inputs: list[Input]) -> Turn:
        turn, now = Turn(inputs, [], []), time.time()
        for given in inputs:
            if given.on_schedule is not None and self._opened:
                turn.records += [(record, None) for record in given.on_schedule(self.schedule)]
            if given.beginning is not None:
                self._begin(given.key, given.beginning, turn, now)
            elif (machine := self._machines.get(given.key)) is not None and given.apply is not None:
                self._apply(machine, given.apply, turn, now)
        turn.records += [(record, None) for record in self.schedule.due(now)]
        for key in self._timers.take(now):
            if (machine := self._machines.get(key)) is not None:
                self._apply(machine, lambda machine, now: machine.tick(now), turn, now)
        if now >= self._sweep_at:
            self._sweep(turn, now)
        return turn

    def _begin(self, key: str, beginning: Beginning, turn: Turn, now: float) -> None:
        if key in self._machines or beginning.cancelled:
            return
        if (ended := self._ended.get(key)) is not None and not beginning.is_replay_of(ended):
            if ended.offset != beginning.begun.offset:  # else its record is read again
                self._repeat(key, beginning, ended)
            return
        if len(self._machines) >= self._limits.instances:
            message = f"{len(self._machines)} workflows run or wait in this partition (workflows.max_instances)"
            self._refuse(beginning, Fault(Code.OVERLOADED, message, retry_after_ms=10_000))
            return
        try:
            if (size := len(encode(beginning.begun))) > self._record_bytes:
                raise ValueError(f"its state ({size} bytes) is larger than topic {self._log.topic} takes")
            machine = self._machine(Instance(key, beginning.begun))
        except ValueError as error:
            self._refuse(beginning, Fault(Code.INVALID, f"the workflow can't begin: {error}"))
            return
        except Exception as error:  # else nothing of this partition would go on
            about = ids(session=beginning.begun.session, request=beginning.begun.id)
            _log.exception("a workflow can't begin", extra=about)
            self._refuse(beginning, Fault(Code.INTERNAL, f"internal error: {type(error).__name__}"))
            return
        self._machines[key] = machine
        self._ended.pop(key, None)  # else its record would be swept away as a marker
        self._apply(machine, lambda machine, now: machine.begin(now), turn, now)

    def _refuse(self, beginning: Beginning, fault: Fault) -> None:
        beginning.cancelled = True
        beginning.hooks.on_refused(fault)

    def _repeat(self, key: str, beginning: Beginning, ended: Ended) -> None:
        """Answer another request with the id of an instance that has ended."""
        answer = self._answers.get((key, ended.offset))
        if isinstance(answer, bytes):
            beginning.cancelled = True
            beginning.hooks.on_answered(answer)
            return
        self._refuse(beginning, answer or answer_not_kept(ended))

    def _apply(self, machine: Machine, apply: Callable[[Machine, float], Step], turn: Turn, now: float) -> None:
        """Make a step. An error that nobody expects ends the instance, not those beside it."""
        instance = machine.instance
        try:
            step = apply(machine, now)
            records = self._tools.writer.records(instance, step, self._number)
        except Exception as error:
            about = ids(session=instance.begun.session, request=instance.begun.id)
            _log.exception("a workflow failed", extra=about)
            step = machine.abandon(Fault(Code.INTERNAL, f"internal error: {type(error).__name__}"), now)
            records = self._tools.writer.records(instance, step, self._number)
        if not step.records and not step.events and not step.calls:
            return
        turn.steps.append((instance, step))
        turn.records += [(record, instance) for record in records]
        if step.ends:
            del self._machines[instance.key]
            self._ended[instance.key] = Ended(now, step.outcome, instance.begun.offset)
            self._timers.forget(instance.key)
        else:
            self._schedule(machine)

    def _schedule(self, machine: Machine) -> None:
        if (due := machine.instance.wakes_at) is not None:
            self._timers.set(machine.instance.key, due)

    def _sweep(self, turn: Turn, now: float) -> None:
        """Remove markers of instances that ended long ago: their requests are committed."""
        self._sweep_at = now + _SWEEP
        for key, ended in list(self._ended.items())[:_SWEPT]:
            if ended.at + self._limits.remember_seconds > now:
                break
            del self._ended[key]
            turn.records.append((StateRecord(self._log.topic, key.encode(), None, partition=self._number), None))

    async def _write(self, turn: Turn) -> None:
        while True:
            try:
                await self._log.write([record for record, _ in turn.records])
            except LogRefused as error:
                if not error.too_large:
                    self.trouble = f"partition {self._number}: {error}"
                    self._throttle.log(
                        _log, logging.WARNING, "the state of workflows was not written: %s", self.trouble
                    )
                    await asyncio.sleep(_BACKOFF)
                turn.records = self._smaller(turn, error.too_large)
            else:
                self.trouble = None
                return

    def _smaller(self, turn: Turn, too_large: frozenset[int]) -> list[tuple[StateRecord, Instance | None]]:
        """Put others in the place of records that no topic takes. Raises LogBroken if that is the state: it is made anew."""
        kept = []
        for index, (record, instance) in enumerate(turn.records):
            if index not in too_large:
                kept.append((record, instance))
            elif record.topic == self._log.topic:
                self._record_bytes = min(self._record_bytes, len(record.value or b"")) // 2
                raise LogBroken(f"a record of {len(record.value or b'')} bytes is larger than {record.topic} takes")
            elif instance is not None and (smaller := self._tools.writer.smaller(record, instance)) is not None:
                kept.append((smaller, instance))
        return kept

    def _act(self, turn: Turn) -> None:
        """Do what was written that it is done."""
        now = time.time()
        for given in turn.inputs:
            beginning = given.beginning
            if beginning is not None and not beginning.cancelled:
                beginning.hooks.on_begun()
            if given.done is not None:
                given.done()
        for instance, step in turn.steps:
            self._tools.observer.stages(instance.begun.model, step.outcomes)
            self._note(instance.key, now)
            self._end_calls(instance)
            if (answer := step.result or step.fault) is not None:
                size = len(answer) if isinstance(answer, bytes) else len(answer.message)
                self._answers.put((instance.key, instance.begun.offset), answer, size + _ENTRY)
            for start in step.calls:
                if not self._draining and instance.runs(start.unit, start.attempt):
                    self._call(instance, start)

    def _note(self, key: str, now: float) -> None:
        machine = self._machines.get(key)
        if machine is None:
            self._tools.observer.forget(key)
        else:
            self._tools.observer.note(key, machine.instance.begun.model, machine.instance.state, now)

    def _end_calls(self, instance: Instance) -> None:
        """Give up the calls of an instance that don't count any more, at another gateway, too, unless that has answered."""
        calls, over = self._calls.get(instance.key, {}), instance.key not in self._machines
        for unit, (start, call) in list(calls.items()):
            if over or not instance.runs(unit, start.attempt):
                del calls[unit]
                if not call.done() and instance.units[unit].state != "finished":
                    self._tools.calls.withdraw(instance.key, start)
                call.cancel()
        if not calls:
            self._calls.pop(instance.key, None)

    def _call(self, instance: Instance, start: StartCall) -> None:
        calls = self._calls.setdefault(instance.key, {})
        if (former := calls.get(start.unit)) is not None:
            former[1].cancel()
        calls[start.unit] = (start, asyncio.create_task(self._make(instance, start)))

    async def _make(self, instance: Instance, start: StartCall) -> None:
        try:
            await self._tools.calls.make(instance, start, self._number, self)
        except Exception as error:
            _log.exception("the call of a stage failed", extra={"key": f"{instance.key}/{start.unit.suffix}"})
            text = f"internal error: {type(error).__name__}"
            self.call_failed(instance.key, start.unit, start.attempt, text, retry=True)

    # -- the end of it

    async def drain(self, timeout: float) -> None:
        """Begin no further calls; return when those that are under way have ended, or after some seconds."""
        self._draining = True
        calls = [call for of_instance in self._calls.values() for _, call in of_instance.values()]
        if calls:
            await asyncio.wait(calls, timeout=timeout)
        if self._opened and self._inputs and self.trouble is None:
            flushed = asyncio.get_running_loop().create_future()
            self._put(Input("", done=lambda: None if flushed.done() else flushed.set_result(None)))
            await asyncio.wait((flushed,), timeout=timeout)

    async def close(self) -> None:
        """Let go of the partition: whoever has it next goes on."""
        self._drop()
        self._log.close()
        await cancel_task(self._task)
