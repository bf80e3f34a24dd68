"""What a process has used, as the kernel tells it, and what many runs say together."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15 of stat)."""
    return _seconds(Path(f"/proc/{pid}/stat"))


def cpu_seconds_of_family(pid: int) -> float:
    """The same with that of its children which have ended (fields 16 and 17)."""
    return _seconds(Path(f"/proc/{pid}/stat"), ended_children=True)


def thread_seconds(pid: int) -> float:
    """The same of a process's first thread alone: in a gateway that is the loop's."""
    return _seconds(Path(f"/proc/{pid}/task/{pid}/stat"))


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def _seconds(stat: Path, ended_children: bool = False) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if ended_children else 13])) / _TICK


def rss_bytes(pid: int) -> int:
    """Resident memory (proc(5), statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def memory_bytes(pid: int) -> tuple[int, int]:
    """Resident memory and its proportional share, where pages that others have too count in part (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {
        name: int(kilobytes.split()[0]) << 10 for name, _, kilobytes in (line.partition(":") for line in lines[1:])
    }
    return found["Rss"], found["Pss"]


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of runs, and the smallest and largest."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
