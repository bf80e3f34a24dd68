"""The ideal queue that latencies are compared with is the one of the textbooks."""

import pytest

from bench.queueing import at, taken


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_one_server_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    found = taken("at random", load, 1.0, 1)
    assert sum(found) / len(found) - 1 == pytest.approx(load / (2 * (1 - load)), rel=0.1)


def test_nobody_waits_for_anybody_where_requests_come_evenly() -> None:
    assert taken("evenly", 1.4, 1.0, 2, requests=1000) == pytest.approx([1.0] * 1000)


def test_more_servers_at_the_same_load_wait_less() -> None:
    late = [at(taken("at random", 0.7 * servers, 1.0, servers, requests=50_000), 0.95) for servers in (1, 2, 4, 16)]
    assert late == sorted(late, reverse=True)
    # What the bench's aim of twice a run's own time means on two cores.
    assert late[1] == pytest.approx(2.9, abs=0.3)
