"""How thousands of clients are sent elsewhere without arriving there all at once."""

from collections.abc import Callable

_AT_LEAST = 100.0  # sessions a second: few clients are not kept waiting for the many that there might have been


def departures(count: int, seconds: float, uniform: Callable[[], float]) -> list[float]:
    """When each of `count` sessions leaves: seconds from now, ascending, over at most `seconds`.

    Each gets an equal slot and a random place in it, so that no second sees more than its share and two beside;
    `uniform` is random.random.
    """
    if not count:
        return []
    slot = min(seconds, count / _AT_LEAST) / count
    return [(index + uniform()) * slot for index in range(count)]
