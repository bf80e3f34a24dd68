"""When the client tries again, refreshes, or gives up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair import client
from podpair.client.errors import error_from
from podpair.client.schedule import SKEWED_REFRESH, Backoff, after_close, refresh_delay
from podpair.client.transport import Gateways, socket_url


def test_the_ceiling_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(initial=0.25, maximum=3.0, rng=lambda: 1.0)
    assert [backoff.next() for _ in range(6)] == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.25


@given(st.integers(0, 2000), st.floats(0, 1), st.floats(0, 60))
def test_a_wait_is_within_its_bounds(attempts: int, chance: float, hint: float) -> None:
    backoff = Backoff(rng=lambda: chance)
    backoff.attempts = attempts
    assert hint <= backoff.next(hint) <= hint + backoff.maximum


@pytest.mark.parametrize(
    ("left", "chance", "expected"),
    [
        (100.0, 0.0, 80.0),  # 80 % of a short life
        (3600.0, 0.0, 3540.0),  # a minute before the end of a long one
        (3600.0, 1.0, 3186.0),  # jitter shortens by up to a tenth
        (-5.0, 0.0, SKEWED_REFRESH),  # the clocks differ
    ],
)
def test_when_a_token_is_refreshed(left: float, chance: float, expected: float) -> None:
    assert refresh_delay(1000.0 + left, 1000.0, lambda: chance) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("code", "can_renew", "kind"),
    [
        (None, False, None),
        (1000, False, None),
        (1001, False, None),
        (1006, False, None),
        (1012, False, None),
        (3001, False, None),
        (3008, False, None),
        (4001, True, None),
        (4001, False, client.Unauthorized),
        (4009, True, client.TakenOver),
        (4123, True, client.SessionClosed),
    ],
)
def test_what_a_close_code_asks_for(code: int | None, can_renew: bool, kind: type[client.PodpairError] | None) -> None:
    error = after_close(code, "", can_renew=can_renew)
    assert type(error) is (kind or type(None))
    if isinstance(error, client.SessionClosed):
        assert error.close_code == code


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("localhost:8080", "ws://localhost:8080/v1/ws"),
        ("http://localhost:8080", "ws://localhost:8080/v1/ws"),
        ("https://models.example/", "wss://models.example/v1/ws"),
        ("wss://models.example/digits/v1/ws", "wss://models.example/digits/v1/ws"),
        ("https://models.example/digits", "wss://models.example/digits/v1/ws"),
        ("https://models.example/a/digits/", "wss://models.example/a/digits/v1/ws"),
        ("wss://models.example/live/ws", "wss://models.example/live/ws"),
        ("ws://h/v1/ws?token=t", "ws://h/v1/ws?token=t"),
    ],
)
def test_the_address_behind_what_people_write(written: str, url: str) -> None:
    assert socket_url(written) == url


def test_gateways_are_taken_in_turn() -> None:
    gateways = Gateways(["ws://a", "ws://b"])
    taken = [gateways.url]
    for _ in range(2):
        gateways.skip()
        taken.append(gateways.url)
    assert taken == ["ws://a/v1/ws", "ws://b/v1/ws", "ws://a/v1/ws"]
    with pytest.raises(ValueError, match="no gateway"):
        Gateways([])


def test_a_code_of_a_newer_gateway_is_still_an_error_with_its_name() -> None:
    error = error_from({"code": "quota", "message": "spent"})
    assert type(error) is client.PodpairError
    assert str(error) == "quota: spent"
