"""Checks what a topic and a sink have of many instances of one workflow. tests/faults/test_checkers.py sees it fail."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Effect(NamedTuple):
    """What a stage is for: once for each item of an instance."""

    request: str
    stage: str
    index: int | None


class WorkflowChecker:
    """Each instance ends once, with its result; its events come once and in order, and each effect is at the sink once.

    Args:
        asked: The requests.
        stages: The declared stages, each with those that it waits for.
        effects: The effects that each instance has at the end.
    """

    def __init__(
        self, asked: Iterable[str], stages: Mapping[str, Iterable[str]], effects: Iterable[tuple[str, int | None]]
    ) -> None:
        self._asked = list(asked)
        self._stages = {name: frozenset(needs) for name, needs in stages.items()}
        self._wanted = {(stage, index) for stage, index in effects}
        self._ends: dict[str, list[str]] = defaultdict(list)
        self._seqs: dict[str, list[int]] = defaultdict(list)
        self._events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._effects: Counter[Effect] = Counter()

    def partial(self, request: str, seq: int, events: list[dict[str, Any]]) -> None:
        """Events of a request, as they are on the topic."""
        self._seqs[request].append(seq)
        self._events[request] += events

    def ended(self, request: str, kind: str) -> None:
        """A terminal record."""
        self._ends[request].append(kind)

    def effect(self, effect: Effect) -> None:
        """The sink has done something."""
        self._effects[effect] += 1

    @property
    def finished(self) -> int:
        """How many instances have ended."""
        return len(self._ends)

    def events_of(self, request: str) -> list[str]:
        """Return what was told of a request, an event each."""
        return [f"{event['stage']}[{event.get('index')}] {event['event']}" for event in self._events.get(request, [])]

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        for request in self._asked:
            found += [f"{request}: {fault}" for fault in self._faults_of(request)]
        strangers = (self._ends.keys() | self._events.keys() | {e.request for e in self._effects}) - set(self._asked)
        return found + [f"{request}: nobody asked for it" for request in sorted(strangers)]

    def _faults_of(self, request: str) -> Iterable[str]:
        ends = self._ends.get(request, [])
        if len(ends) != 1:
            yield f"ended {len(ends)} times" if ends else "never ended"
        elif ends != ["result"]:
            yield f"ended with {ends[0]}"
        seqs = self._seqs.get(request, [])
        if seqs != list(range(len(seqs))):
            yield f"seq is {seqs}"
        yield from self._order(self._events.get(request, []))
        for stage, index in sorted(self._wanted, key=str):
            times = self._effects[Effect(request, stage, index)]
            if times != 1:
                yield f"{stage}[{index}] has its effect {times} times"

    def _order(self, events: list[dict[str, Any]]) -> Iterable[str]:
        places: dict[tuple[str, int | None, str], list[int]] = defaultdict(list)
        for place, event in enumerate(events):
            places[event["stage"], event.get("index"), event["event"]].append(place)
        for (stage, index, kind), at in places.items():
            if kind in ("started", "finished") and len(at) > 1:
                yield f"{stage}[{index}] {kind} {len(at)} times"
        for stage, needs in self._stages.items():
            started, finished = places[stage, None, "started"], places[stage, None, "finished"]
            if not started or not finished:
                yield f"{stage} is not told of from its start to its end"
                continue
            if started[0] > finished[0]:
                yield f"{stage} finished before it started"
            for need in sorted(needs):
                before = places[need, None, "finished"]
                if not before or before[0] > started[0]:
                    yield f"{stage} started before {need} had finished"
        for (stage, index, kind), at in list(places.items()):
            if kind == "progress":
                begun = places[stage, index, "started"]
                if not begun or begun[0] > at[0]:
                    yield f"{stage}[{index}] made progress before it started"
