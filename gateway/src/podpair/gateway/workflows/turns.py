"""What is done in one turn of a partition's workflows: what happened, the steps that follow, and their records."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from podpair.gateway.core.bounded_cache import BoundedCache
from podpair.gateway.core.dead_letters import REPLAYS
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.machine import Machine
from podpair.gateway.core.workflows.records import Begun, Ended
from podpair.gateway.core.workflows.steps import Step
from podpair.gateway.worker.workflows import BeginHooks
from podpair.gateway.workflows.calls import StageCalls
from podpair.gateway.workflows.observer import Observer
from podpair.gateway.workflows.schedule import OnSchedule
from podpair.gateway.workflows.state_log import StateRecord
from podpair.gateway.workflows.writer import StepWriter


@dataclass(frozen=True, slots=True)
class Tools:
    """What all partitions work with."""

    writer: StepWriter
    calls: StageCalls
    observer: Observer


Answers = BoundedCache[tuple[str, int], bytes | Fault]
"""How instances have ended lately, by key and the offset of their request: a key is used again once its marker is removed."""


class Beginning:
    """An instance that is to begin."""

    def __init__(self, begun: Begun, hooks: BeginHooks) -> None:
        self.begun = begun
        self.hooks = hooks
        self.cancelled = False

    def is_replay_of(self, ended: Ended) -> bool:
        """Return whether it is an instance that failed, put back by a replay of its dead letter: it begins anew."""
        begun = self.begun
        return REPLAYS in begun.headers and ended.outcome != "result" and ended.offset != begun.offset

    def cancel(self) -> None:
        """Leave it, unless it is under way: whoever reads its request next begins it."""
        self.cancelled = True


@dataclass(slots=True)
class Input:
    """Something that happened to an instance, and what is called once that is durable."""

    key: str
    apply: Callable[[Machine, float], Step] | None = None
    done: Callable[[], object] | None = None
    beginning: Beginning | None = None
    on_schedule: OnSchedule | None = None
    keeps: bool = False
    """A request is to be kept."""

    @property
    def opens(self) -> bool:
        """Whether the state has to be there for it: it adds to it."""
        return self.keeps or self.beginning is not None


@dataclass(slots=True)
class Turn:
    """What is done together."""

    inputs: list[Input]
    steps: list[tuple[Instance, Step]]
    records: list[tuple[StateRecord, Instance | None]]


def answer_not_kept(ended: Ended) -> Fault:
    """Return what another request with the id of an ended instance gets, if its answer is not known any more."""
    when = datetime.fromtimestamp(ended.at, UTC).isoformat(timespec="seconds")
    text = f"a workflow with this id has ended ({ended.outcome}, {when}), and its answer is not kept: take another id"
    return Fault(Code.INVALID, text)
