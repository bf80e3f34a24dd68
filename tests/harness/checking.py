"""Checkers for the gateway's invariants: they say what is wrong, and with whom. tests/faults/test_checkers.py sees them fail."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable


class OrderChecker:
    """Each client receives 0, 1, 2, … of its own, each once and in order."""

    def __init__(self, expected: dict[str, int]) -> None:
        self._expected = expected
        self._seen: dict[str, list[int]] = defaultdict(list)

    def saw(self, client: str, number: int) -> None:
        """`client` has received its record `number`."""
        self._seen[client].append(number)

    def expect(self, expected: dict[str, int]) -> None:
        """How many each client has to see, where that is known only at the end."""
        self._expected = expected

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        for client, count in self._expected.items():
            before = len(found)
            seen = self._seen[client]
            twice = [n for n, times in Counter(seen).items() if times > 1]
            missing = sorted(set(range(count)) - set(seen))
            strange = sorted(set(seen) - set(range(count)))
            for what, numbers in (("twice", twice), ("missing", missing), ("not its own", strange)):
                if numbers:
                    found.append(f"{client}: {what}: {numbers[:5]}{' …' if len(numbers) > 5 else ''}")
            if len(found) == before and seen != sorted(seen):
                at = next(i for i in range(1, len(seen)) if seen[i] < seen[i - 1])
                found.append(f"{client}: out of order: {seen[at]} after {seen[at - 1]}")
        return found


class TopicChecker:
    """Each request has exactly one answer on the results topic itself."""

    def __init__(self, asked: Iterable[str]) -> None:
        self._asked = set(asked)
        self._answers: Counter[str] = Counter()

    def saw(self, request: str) -> None:
        """An answer to `request` is on the topic."""
        self._answers[request] += 1

    @property
    def answered(self) -> int:
        """How many requests have an answer."""
        return len(self._answers)

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        for what, requests in (
            ("no answer", self._asked - self._answers.keys()),
            ("more than one answer", {r for r, count in self._answers.items() if count > 1}),
            ("not asked", self._answers.keys() - self._asked),
        ):
            if requests:
                some = sorted(requests)
                found.append(f"{what}: {len(some)}: {some[:5]}{' …' if len(some) > 5 else ''}")
        return found


class TerminalChecker:
    """Each accepted request ends in exactly one terminal event at its client.

    One that was asked and ended need not have been accepted: the word of it may have been on a wire that was cut.
    """

    def __init__(self) -> None:
        self._asked: set[tuple[str, str]] = set()
        self._accepted: set[tuple[str, str]] = set()
        self._ended: Counter[tuple[str, str]] = Counter()
        self.outcomes: Counter[str] = Counter()

    def asked(self, client: str, request: str) -> None:
        self._asked.add((client, request))

    def accepted(self, client: str, request: str) -> None:
        self._accepted.add((client, request))

    def ended(self, client: str, request: str, outcome: str) -> None:
        self._ended[client, request] += 1
        self.outcomes[outcome] += 1

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        lost = [f"{c}/{r}: accepted, never ended" for c, r in sorted(self._accepted - self._ended.keys())]
        twice = [f"{c}/{r}: ended {n} times" for (c, r), n in sorted(self._ended.items()) if n > 1]
        strange = [f"{c}/{r}: ended, never asked" for c, r in sorted(self._ended.keys() - self._asked)]
        return lost + twice + strange


class GapChecker:
    """Each client receives its numbered records in order and each once; one that doesn't come is in a gap that was declared.

    For logs that are cut, deleted and made again. What was written while a topic changed (`unsettled`) may be nowhere: whether
    it went to the old topic, the new one, or to a home that had moved, its producer did not know either. What is passed on
    without a position, from the home before, has no place in the order.
    """

    def __init__(self) -> None:
        self._wrote: dict[str, dict[int, float]] = defaultdict(dict)  # client → number → when
        self._came: dict[str, list[int | None]] = defaultdict(list)  # None: a gap
        self._unplaced: dict[str, list[int]] = defaultdict(list)
        self._gaps: dict[str, list[tuple[int, float]]] = defaultdict(list)  # where in _came, and when
        self._unacked: list[tuple[float, float]] = []

    def wrote(self, client: str, number: int, at: float) -> None:
        """The broker has acknowledged the client's record `number`, which was handed to the producer at `at`."""
        self._wrote[client][number] = at

    def saw(self, client: str, number: int, *, placed: bool = True) -> None:
        """`client` has received its record `number`; `placed`: with a position."""
        (self._came if placed else self._unplaced)[client].append(number)

    def gap(self, client: str, at: float) -> None:
        """`client` was told, at this time, that something is missing here."""
        self._gaps[client].append((len(self._came[client]), at))
        self._came[client].append(None)

    def unsettled(self, begin: float, end: float) -> None:
        """A topic changed between these times."""
        self._unacked.append((begin, end))

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        for client in sorted(self._wrote.keys() | self._came.keys()):
            came, wrote = self._came[client], self._wrote[client]
            # What came before a gap may come once more behind it, from a log that was read from its start.
            for seen in _between_gaps(came):
                twice = [n for n, times in Counter(seen).items() if times > 1]
                if twice:
                    found.append(f"{client}: twice: {twice[:5]}")
                elif seen != sorted(seen):
                    at = next(i for i in range(1, len(seen)) if seen[i] < seen[i - 1])
                    found.append(f"{client}: out of order: {seen[at]} after {seen[at - 1]}")
            unplaced = set(self._unplaced[client])
            missing = sorted(n for n in wrote.keys() - set(came) - unplaced if not self._excused(client, n))
            if missing:
                found.append(f"{client}: missing, and no gap: {missing[:5]}{' …' if len(missing) > 5 else ''}")
        return found

    def history(self, client: str) -> str:
        """All that is known of a client, to understand its faults: what came, when each was written, when topics changed."""
        began = min((begin for begin, _ in self._unacked), default=0.0)
        wrote = {n: round(at - began, 2) for n, at in self._wrote[client].items()}
        changes = [(round(begin - began, 2), round(end - began, 2)) for begin, end in self._unacked]
        gaps = [(index, round(at - began, 2)) for index, at in self._gaps[client]]
        came = f"{client}: came {self._came[client]}, gaps at {gaps}, unplaced {self._unplaced[client]}"
        return f"{came}; written at {wrote}; topics changed at {changes}, from {began:.2f}"

    def _excused(self, client: str, number: int) -> bool:
        at, came = self._wrote[client][number], self._came[client]
        if any(begin <= at <= end for begin, end in self._unacked):
            return True
        # A gap that was declared after it was written, and before any later one came: behind it may come what is older, too,
        # where another partition is the home from then on.
        return any(
            told >= at and not any(n is not None and n > number for n in came[:index])
            for index, told in self._gaps[client]
        )


def _between_gaps(came: list[int | None]) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for number in came:
        if number is None:
            runs.append([])
        else:
            runs[-1].append(number)
    return runs


class ChangeChecker:
    """Pushes to clients whose topic changes: each comes, or was written before a change and its client was told of a gap."""

    def __init__(self) -> None:
        self._written: dict[str, int] = Counter()
        self._settled: dict[str, int] = Counter()  # how many were written before the last change
        self._seen: dict[str, list[int]] = defaultdict(list)  # since the last gap
        self._before: dict[str, set[int]] = defaultdict(set)  # seen before it
        self._gaps: Counter[str] = Counter()

    def wrote(self, client: str) -> int:
        """The number of the next push to `client`."""
        self._written[client] += 1
        return self._written[client] - 1

    def changed(self) -> None:
        """The topic has changed: what is written from now on is in what it is now."""
        self._settled = Counter(self._written)

    def gap(self, client: str) -> None:
        """`client` was told of a gap."""
        self._gaps[client] += 1
        self._before[client].update(self._seen.pop(client, ()))

    def saw(self, client: str, number: int) -> None:
        """`client` has received its push `number`."""
        self._seen[client].append(number)

    def complete(self, client: str) -> bool:
        """Whether the client has the last that was written to it."""
        return self._written[client] - 1 in self._seen[client]

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        for client, written in self._written.items():
            seen = self._seen[client]
            everything = self._before[client] | set(seen)
            excused = self._settled[client] if self._gaps[client] else 0
            missing = [n for n in range(excused, written) if n not in everything]
            twice = [n for n, times in Counter(seen).items() if times > 1]
            for what, numbers in (("missing", missing), ("twice", twice)):
                if numbers:
                    found.append(f"{client}: {what}: {numbers[:5]}{' …' if len(numbers) > 5 else ''}")
            if seen != sorted(seen):
                at = next(i for i in range(1, len(seen)) if seen[i] < seen[i - 1])
                found.append(f"{client}: out of order: {seen[at]} after {seen[at - 1]}")
        return found


class StaleChecker:
    """Who asks once an invalidation is in force gets an answer made of that generation of the data, or of a later one."""

    def __init__(self) -> None:
        self._in_force: list[tuple[float, int]] = []  # from when on, and which generation; in both orders the same
        self._answers: list[tuple[str, float, int]] = []

    @property
    def invalidations(self) -> int:
        """How many were acknowledged."""
        return len(self._in_force)

    def in_force(self, generation: int, since: float) -> None:
        """Answers from before `generation` are stale for who asks after `since`."""
        self._in_force.append((since, generation))

    def answered(self, who: str, asked: float, generation: float) -> None:
        """`who` asked at that time, and got an answer made of this generation."""
        self._answers.append((who, asked, int(generation)))

    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        for who, asked, generation in list(self._answers):
            due = bisect_left(self._in_force, (asked, 0))
            wanted = self._in_force[due - 1][1] if due else 0
            if generation < wanted:
                since = asked - next(at for at, of in self._in_force if of > generation)
                found.append(f"{who}: stale: generation {generation} instead of {wanted}, {since * 1000:.0f} ms after")
        return found
