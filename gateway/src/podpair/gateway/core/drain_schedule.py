"""The schedule of a drain: sends thousands of clients elsewhere without letting them arrive there all at once."""

from collections.abc import Callable

_AT_LEAST = 100.0  # sessions a second: few clients need not wait as long as many would


def departure_times(count: int, seconds: float, uniform: Callable[[], float]) -> list[float]:
    """Return when each of `count` sessions leaves: seconds from now, ascending, over at most `seconds`.

    Each gets an equal slot and a random place in it, so that no second sees more than its share and two beside;
    `uniform` is random.random.
    """
    if not count:
        return []
    slot = min(seconds, count / _AT_LEAST) / count
    return [(index + uniform()) * slot for index in range(count)]
