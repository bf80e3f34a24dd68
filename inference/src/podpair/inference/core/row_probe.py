"""Finds out whether a row's answer is the same alone and in company, by running random rows alone and together.

Three things can come of it. The model has no rows: it answers with another number of them, or takes inputs of different
numbers. It has rows that depend on each other, or on how often it is asked. Or each row was answered as it was alone, in every
company that was tried: in several sizes, at other places, in the reverse order, beside equal and beside quite different rows.

What it costs is bounded: a model that takes milliseconds is tried with everything, one that takes seconds with two rows, alone
and together. That is the least that says anything.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from podpair.inference.core.row_decision import Rows
from podpair.inference.core.row_values import PROFILES, Profile, random_rows, same
from podpair.inference.core.tensors import Array, TensorSpec

Run = Callable[[Sequence[Array]], Sequence[Array]]

# What dimensions of any size are tried with: enough that something can happen along them, and none of the numbers of rows
# below, so that an output whose first dimension it is isn't taken for rows.
SIZES = (32, 7, 1, 256, 512, 640)
# Which of so many rows are run together; more if there is time.
_COMPANIES: dict[int, tuple[tuple[int, ...], ...]] = {
    8: (tuple(range(8)), tuple(reversed(range(8))), (1, 2, 4), (5, 5, 0, 5, 3), (7, 0)),
    4: ((0, 1, 2, 3), (3, 0)),
    2: ((0, 1),),
}
_MOST = max(_COMPANIES)
_LARGE = 64
# Of larger rows two are drawn: to draw more would take longer than to run them.
_MOST_ELEMENTS = 1 << 18


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe has found, and why: the end of a sentence."""

    rows: Rows
    reason: str


@dataclass(frozen=True, slots=True)
class ProbedInput:
    """An input, and what its dimensions are called: those of one name have one size; None: any."""

    spec: TensorSpec
    symbols: tuple[str | None, ...]

    @property
    def first(self) -> str | None:
        """What the number of rows is called."""
        return self.symbols[0] if self.symbols else None


@dataclass(frozen=True, slots=True)
class Hints:
    """What helps to try a model."""

    # What may be spent, on the probe's clock; else four runs.
    seconds: float
    # Sizes of dimensions of any size that model.yaml names.
    sizes: Sequence[int] = ()
    # What texts may be made of: those that the model knows.
    words: Sequence[bytes] = ()


class _Differ(Exception):
    """The probe is over."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding


@dataclass(slots=True)
class _Sample:
    """Random rows, and the answers to the first of them alone."""

    profile: Profile
    rows: list[Array]
    alone: list[Sequence[Array]] = field(default_factory=list)

    @property
    def varied(self) -> bool:
        """Whether any two are answered differently: else it shows nothing that they are answered alike."""
        finite = [answer for answer in self.alone if all(map(_finite, answer))]
        return any(not all(map(same, finite[0], answer)) for answer in finite[1:])


class RowProbe:
    """One model's probe.

    run: the model; it may raise anything. names: its outputs'. clock: seconds, on whatever clock says what a run costs.
    """

    def __init__(
        self,
        run: Run,
        inputs: Sequence[ProbedInput],
        names: Sequence[str],
        clock: Callable[[], float],
        hints: Hints,
    ) -> None:
        self._run = run
        self._inputs = inputs
        self._names = names
        self._clock = clock
        self._hints = hints
        self._end = clock() + hints.seconds
        self._draw = np.random.default_rng(5)
        # Seconds that a row takes.
        self._cost = 0.0
        # Why the last values were refused, and which answers hung on the number of rows.
        self._refused = self._unsteady = ""

    def find(self) -> Finding:
        """Ask the model."""
        try:
            first = self._fitting()
            if first is None:
                return Finding(Rows.DEPENDENT, f"it could not be tried with random rows ({self._refused})")
            self._try_unequal([array.shape[1:] for array in first.rows])
            return self._compare(first)
        except _Differ as end:
            return end.finding

    def _fitting(self) -> "_Sample | None":
        """Find rows of a shape and with values that the model accepts, and the answers to the first two; None: there are none."""
        started = self._clock()
        sizes = [*self._hints.sizes, *SIZES]
        if all(-1 not in probed.spec.shape[1:] for probed in self._inputs):
            sizes = [1]
        for profile in PROFILES:
            for size in sizes:
                sample = _Sample(profile, self._rows([_inner(probed, size) for probed in self._inputs], profile))
                if self._alone(sample, 0):
                    # The first time pays for what is made lazily.
                    begun = self._clock()
                    if self._alone(sample, 1):
                        self._cost = self._clock() - begun
                        self._end = begun + max(self._hints.seconds, 4 * self._cost)
                        return sample
                if self._clock() - started > max(self._hints.seconds, 1.0):
                    return None
        return None

    def _try_unequal(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Try inputs with different numbers of rows, if the names of their dimensions allow that."""
        first = {probed.first for probed in self._inputs}
        if len(self._inputs) < 2 or (len(first) == 1 and None not in first):
            return
        for index, probed in enumerate(self._inputs):
            counts = [3 if i == index or (p.first is not None and p.first == probed.first) else 2
                      for i, p in enumerate(self._inputs)]  # fmt: skip
            if 2 not in counts or (index and not self._affords(5)):
                continue
            arrays = [
                random_rows(p.spec, count, inner, PROFILES[0], self._hints.words, self._draw)
                for p, inner, count in zip(self._inputs, shapes, counts, strict=True)
            ]
            if self._asked(arrays) is not None:
                raise _Differ(Finding(Rows.NONE, f"it takes 3 rows of {probed.spec.name} with 2 of another input"))

    def _compare(self, first: "_Sample") -> Finding:
        shapes = [array.shape[1:] for array in first.rows]
        tried: list[str] = []
        varied = False
        for profile in (first.profile, *(other for other in PROFILES if other is not first.profile)):
            if varied and not self._affords(20):
                break
            sample = first if profile is first.profile else _Sample(profile, self._rows(shapes, profile))
            drawn = len(sample.rows[0])
            count = next((count for count in _COMPANIES if count <= drawn and self._affords(5 * count)), 2)
            if not all(self._alone(sample, i) for i in range(len(sample.alone), count)):
                continue  # values that it doesn't take
            if not self._compare_sample(sample, count, large=not tried):
                continue
            tried.append(profile.name)
            varied |= sample.varied
        if not tried:
            why = self._unsteady or f"it could not be tried with random rows ({self._refused})"
            return Finding(Rows.DEPENDENT, why)
        if not varied:
            return Finding(Rows.DEPENDENT, "it answers all random rows alike, which shows nothing")
        return Finding(Rows.INDEPENDENT, f"answers to random rows ({', '.join(tried)}) are the same alone and together")

    def _compare_sample(self, sample: "_Sample", count: int, *, large: bool) -> bool:
        """Return whether rows are answered together as alone; False if such values can't tell."""
        if count > 2:
            again = self._asked([array[:1] for array in sample.rows])
            if again is None or not all(map(same, again, sample.alone[0])):
                raise _Differ(Finding(Rows.DEPENDENT, "the same row is answered differently from run to run"))
        companies = list(_COMPANIES[count])
        if large and count == _MOST and self._affords(_LARGE):
            companies.append(tuple(i % count for i in range(_LARGE)))
        return all(self._is_same(sample, company) for company in companies)

    def _alone(self, sample: "_Sample", i: int) -> bool:
        """Ask a row alone; False: the model doesn't take it."""
        answer = self._asked([array[i : i + 1] for array in sample.rows])
        if answer is not None:
            self._check_rows(answer, 1)
            sample.alone.append(answer)
        return answer is not None

    def _is_same(self, sample: "_Sample", company: Sequence[int]) -> bool:
        """Return whether these rows are answered together as alone.

        One that isn't is run with as many copies of itself: if that answer differs, it depends on the other rows. Otherwise
        it depends on their number, or on rounding, which a model may magnify: a normalisation of what is almost constant,
        say. Such values say nothing; where all do, it is the number.
        """
        together = self._together(sample, company)
        for place, i in enumerate(company):
            for output, (answer, single) in enumerate(zip(together, sample.alone[i], strict=True)):
                if same(answer[place : place + 1], single):
                    continue
                name = self._names[output]
                copies = self._together(sample, [i] * len(company))[output]
                if not same(answer[place : place + 1], copies[place : place + 1]):
                    why = f"{name} of a row among {len(company)} differs from its answer alone"
                    raise _Differ(Finding(Rows.DEPENDENT, why))
                self._unsteady = f"{name} of a row differs with the number of rows"
                return False
        return True

    def _together(self, sample: "_Sample", company: Sequence[int]) -> Sequence[Array]:
        answer = self._asked([array[list(company)] for array in sample.rows])
        if answer is None:
            why = f"it refuses {len(company)} rows together that it takes alone ({self._refused})"
            raise _Differ(Finding(Rows.DEPENDENT, why))
        self._check_rows(answer, len(company))
        return answer

    def _check_rows(self, answer: Sequence[Array], rows: int) -> None:
        for name, array in zip(self._names, answer, strict=True):
            if array.shape[:1] != (rows,):
                one = "1 row is" if rows == 1 else f"{rows} rows are"
                raise _Differ(Finding(Rows.NONE, f"{one} answered with {name} {list(array.shape)}"))

    def _asked(self, arrays: Sequence[Array]) -> Sequence[Array] | None:
        try:
            return self._run(arrays)
        except Exception as error:  # whatever the model raises: these values are not for it
            self._refused = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            return None

    def _rows(self, shapes: Sequence[tuple[int, ...]], profile: Profile) -> list[Array]:
        count = _MOST if sum(map(math.prod, shapes)) <= _MOST_ELEMENTS else 2
        return [
            random_rows(probed.spec, count, inner, profile, self._hints.words, self._draw)
            for probed, inner in zip(self._inputs, shapes, strict=True)
        ]

    def _affords(self, rows: int) -> bool:
        return self._clock() + rows * self._cost <= self._end


def _inner(probed: ProbedInput, size: int) -> tuple[int, ...]:
    return tuple(size if dimension == -1 else dimension for dimension in probed.spec.shape[1:])


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
