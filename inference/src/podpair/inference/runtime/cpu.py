"""How many threads compute: about 80 % of the cores that this container may use, the rest is for its protocol."""

import math
import os
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Cores by affinity and by the cgroup's quota (v2), whichever is less; a pod's limit is such a quota."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    try:
        quota, period = cgroup.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def preparing_threads(cores: float) -> int:
    """Threads that pre-process, of all models together: about 80 % of the cores, rounded up."""
    return max(1, math.ceil(cores * 0.8))


def compute_threads(cores: float, instances: int) -> int:
    """Threads for one run where `instances` runs go on at the same time."""
    return max(1, int(cores * 0.8) // instances)
