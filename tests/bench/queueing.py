"""What no server can do better: requests that come at a rate, taken in their order by a few servers that each need the same
time for one. How long they then take is queueing theory (M/D/c, where they come at random), and no fault of the program's.
"""

import random
from collections.abc import Callable, Iterator
from heapq import heapify, heapreplace

# At random: as independent clients come (Poisson). Evenly: as from a clock.
ARRIVALS = ("at random", "evenly")


def gaps(arrivals: str, rate: float, seed: int = 3) -> Iterator[float]:
    """Seconds from one request to the next, without an end."""
    draw = random.Random(seed)
    between: Callable[[], float] = (lambda: draw.expovariate(rate)) if arrivals == "at random" else (lambda: 1 / rate)
    while True:
        yield between()


def taken(arrivals: str, rate: float, seconds: float, servers: int, requests: int = 200_000) -> list[float]:
    """How long each request takes in all, ascending; seconds: of one alone."""
    free = [0.0] * servers
    heapify(free)
    found, now = [], 0.0
    between = gaps(arrivals, rate)
    for _ in range(requests):
        now += next(between)
        end = max(now, free[0]) + seconds
        heapreplace(free, end)
        found.append(end - now)
    return sorted(found)


def at(ascending: list[float], part: float) -> float:
    """A percentile, as a part of 1."""
    return ascending[min(int(len(ascending) * part), len(ascending) - 1)]
