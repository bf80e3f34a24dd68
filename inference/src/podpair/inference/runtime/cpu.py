"""How many threads compute: about 80 % of the cores that this container may use; the rest is for the protocols."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Return the cores by affinity or by the cgroup's quota (v2), whichever is less; a pod's limit is such a quota."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    try:
        quota, period = cgroup.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def preprocess_threads(cores: float) -> int:
    """Return the number of pre-processing threads of all models together: about 80 % of the cores, rounded up."""
    return max(1, math.ceil(cores * 0.8))


def layout(cores: float, instances: int | None, intra_op: int | None) -> tuple[int, int]:
    """Return the number of parallel runs, and of threads in each; what isn't given is chosen.

    Several runs of one thread each answer more than one run of several threads, which wait for each other.
    """
    threads = max(1, round(cores * 0.8))
    if instances is None:
        instances = max(1, threads // (intra_op or 1))
        return instances, intra_op or 1
    return instances, intra_op or max(1, threads // instances)


def bind_thread(cpus: Sequence[int]) -> None:
    """Let the calling thread run on these cores only; none: on any. Where the system can't, nothing happens."""
    if cpus and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)
