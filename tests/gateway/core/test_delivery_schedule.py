"""When deliveries are tried again, and when a host is left alone."""

import pytest

from podpair.gateway.core.deliveries.circuit import Circuit
from podpair.gateway.core.deliveries.schedule import NextAttempt, Schedule

WAITS = (5, 60, 300)


def schedule(random: float = 0.5, max_age: float = 86_400) -> Schedule:
    return Schedule(WAITS, max_age, lambda: random)


def test_waits_grow_and_the_last_one_holds() -> None:
    found = [schedule().next(level, 0, 1000) for level in range(5)]
    assert found == [NextAttempt(tier, 1000 + WAITS[tier]) for tier in (0, 1, 2, 2, 2)]


@pytest.mark.parametrize(("random", "due"), [(0, 1054), (1, 1066)])
def test_a_tenth_of_the_wait_is_chance(random: float, due: float) -> None:
    assert schedule(random).next(1, 0, 1000) == NextAttempt(1, pytest.approx(due))


@pytest.mark.parametrize(
    ("level", "asked", "tier", "least"),
    [(0, 2, 0, 5), (0, 30, 1, 30), (0, 61, 2, 61), (1, 30, 1, 60), (0, 9999, 2, 300), (2, 1, 2, 300)],
)
def test_it_is_never_sooner_than_the_receiver_asks(level: int, asked: float, tier: int, least: float) -> None:
    for random in (0, 0.5, 1):
        found = schedule(random).next(level, 0, 1000, asked)
        assert found is not None
        assert found.tier == tier
        assert 1000 + least <= found.due <= 1000 + least * 1.1


def test_what_would_be_too_old_is_given_up() -> None:
    found = schedule(max_age=100)
    assert found.next(1, 950, 980) is not None
    assert found.next(1, 930, 980) is None


def test_a_circuit_opens_after_failures_in_a_row_only() -> None:
    circuit = Circuit(3, 10)
    for outcome in "ff.ff.ff":
        circuit.succeeded() if outcome == "." else circuit.failed(0)
        assert circuit.admit(0)
    circuit.failed(0)
    assert (circuit.admit(9.9), circuit.closed_to(9.9), circuit.opened_at) == (False, True, 0)


def test_one_attempt_at_a_time_asks_whether_the_host_is_back() -> None:
    circuit = Circuit(1, 10)
    circuit.failed(0)
    assert [circuit.admit(10), circuit.admit(10)] == [True, False]
    circuit.failed(11)
    assert [circuit.admit(30), circuit.admit(31.5), circuit.admit(31.5)] == [False, True, False]
    circuit.abandoned()
    assert circuit.admit(31.6)
    circuit.succeeded()
    assert [circuit.admit(32), circuit.admit(32)] == [True, True]


def test_waits_of_a_circuit_are_bounded() -> None:
    circuit, now = Circuit(1, 10), 0.0
    circuit.failed(now)
    for _ in range(10):
        now += 300
        assert circuit.admit(now)
        circuit.failed(now)
    assert circuit.admit(now + 300)


def test_late_failures_of_attempts_from_before_do_not_lengthen_the_wait() -> None:
    circuit = Circuit(1, 10)
    circuit.failed(0)
    for _ in range(20):
        circuit.failed(5)
    assert circuit.admit(10)
