"""The time by which fetched keys age."""

import pytest

from podpair.gateway.auth import jwks


class Clock:
    """A monotonic clock that the test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the keys' cache."""
    clock = Clock()
    monkeypatch.setattr(jwks, "time", clock)
    return clock
