"""Which layouts and batch sizes are worth measuring, and which of those measured to recommend: no clock, no model.

Among settings within 5 % of the best throughput it picks the one with the shortest run: a request waits for the batch before
its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

# What counts as the same.
_NEAR = 0.95
# A size that is so much slower than the best one before promises nothing of larger ones.
_HOPELESS = 0.8


@dataclass(frozen=True, slots=True)
class Layout:
    """Runs at the same time, and threads inside each."""

    instances: int
    intra_op_threads: int


@dataclass(frozen=True, slots=True)
class Cell:
    """What a layout does with batches of one size."""

    layout: Layout
    rows: int
    # Of each round, all its runs together.
    rows_per_second: tuple[float, ...]
    # Milliseconds that a run takes, of each round.
    run_ms: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Rows a second."""
        return median(self.rows_per_second)

    @property
    def median_ms(self) -> float:
        """Milliseconds a run."""
        return median(self.run_ms)


def layouts(threads: int, *, intra_op: bool) -> list[Layout]:
    """Return the ways to use so many threads, beginning with one thread. intra_op: whether a run can have several."""
    if not intra_op:
        return [Layout(instances, 1) for instances in dict.fromkeys((*_doubling(threads), threads))]
    split = [Layout(threads // inside, inside) for inside in (*_doubling(threads), threads)]
    return list(dict.fromkeys((Layout(1, 1), *split)))


def sizes(largest: int) -> list[int]:
    """Return batch sizes up to the largest: powers of two, and itself."""
    return list(dict.fromkeys((*_doubling(largest), largest)))


def hopeless(rates: Sequence[float]) -> bool:
    """Return whether larger batches than the measured ones (ascending) needn't be tried: two in turn were far from the best."""
    return len(rates) > 2 and max(rates[-2:]) < _HOPELESS * max(rates)


def best(cells: Sequence[Cell]) -> Cell:
    """Return the cell to recommend."""
    top = max(cell.rate for cell in cells)
    return min((cell for cell in cells if cell.rate >= _NEAR * top), key=lambda cell: (cell.median_ms, cell.rows))


def table(cells: Sequence[Cell], chosen: Cell) -> Iterator[str]:
    """Yield the cells as lines; the chosen one is marked."""
    yield f"{'instances':>9}  {'intra-op':>8}  {'rows':>5}  {'rows/s':>10}  {'ms a run':>9}"
    for cell in cells:
        layout = cell.layout
        line = f"{layout.instances:>9}  {layout.intra_op_threads:>8}  {cell.rows:>5}  {cell.rate:>10.0f}  {cell.median_ms:>9.3f}"
        yield f"{line}  <" if cell is chosen else line


def model_yaml(chosen: Cell, *, intra_op: bool) -> list[str]:
    """Return the lines for the model's model.yaml."""
    layout = chosen.layout
    threads = f", intra_op_threads: {layout.intra_op_threads}" if intra_op else ""
    return [f"batching: {{max_items: {chosen.rows}}}", f"runtime: {{instances: {layout.instances}{threads}}}"]


def _doubling(end: int) -> list[int]:
    return [2**i for i in range(end.bit_length())]
