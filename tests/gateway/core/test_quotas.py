"""What a token allows, decided without a clock or a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.latency_estimate import LatencyEstimator
from podpair.gateway.core.ledger import Ledger, OpenRequest
from podpair.gateway.core.protocol import Code
from podpair.gateway.core.quotas import Bucket, Forbidden, Grant, Limited, Quotas, Rule


def granted(*rules: Rule, **claims: object) -> Grant:
    grant = Quotas(rules).grant({"sub": "ann", **claims}, 0.0)
    assert grant is not None
    return grant


def open_request(ledger: Ledger, name: str, grant: Grant) -> None:
    ledger.open(name, OpenRequest("direct", cancels_on_disconnect=False, grant=grant))


@given(st.lists(st.floats(0, 3), max_size=200), st.floats(0.5, 50), st.integers(1, 20))
def test_a_bucket_gives_no_more_than_its_rate_and_its_burst(pauses: list[float], rate: float, burst: int) -> None:
    bucket = Bucket(rate, burst, 0.0)
    now, given_out = 0.0, 0
    for pause in pauses:
        now += pause
        wait = bucket.acquire(now)
        if not wait:
            given_out += 1
        else:
            assert wait <= 1 / rate + 1e-9
            now += wait * 1.001
            assert bucket.acquire(now) == 0
            given_out += 1
    assert given_out <= burst + rate * now + 1e-6


def test_requests_of_one_user_are_counted_over_all_its_sessions_and_no_other_s() -> None:
    quotas = Quotas([Rule("sub", in_flight=2)])
    ann, bob = quotas.grant({"sub": "ann"}, 0.0), quotas.grant({"sub": "bob"}, 0.0)
    assert ann is not None
    assert bob is not None
    one, two = Ledger(9), Ledger(9)
    for ledger in (one, two):
        ann.admit("m", "auto", 0.0)
        open_request(ledger, "r", ann)
    with pytest.raises(Limited, match="2 requests of sub 'ann' are in flight") as refused:
        ann.admit("m", "auto", 0.0)
    assert (refused.value.limit, refused.value.code) == ("in_flight", Code.OVERLOADED)
    assert refused.value.retry_after_ms == 100
    bob.admit("m", "auto", 0.0)
    one.end("r")
    assert one.end("r") is None
    ann.admit("m", "auto", 0.0)
    open_request(one, "r", ann)
    with pytest.raises(Limited):
        ann.admit("m", "auto", 0.0)
    two.discard("r")
    two.discard("r")
    ann.admit("m", "auto", 0.0)


def test_a_request_counts_under_the_token_that_it_was_asked_with() -> None:
    quotas = Quotas([Rule("tenant", in_flight=1)])
    acme, other = [quotas.grant({"sub": "ann", "tenant": name}, 0.0) for name in ("acme", "other")]
    assert acme is not None
    assert other is not None
    ledger = Ledger(9)
    open_request(ledger, "r", acme)
    other.admit("m", "auto", 0.0)
    open_request(ledger, "s", other)
    ledger.end("r")
    acme.admit("m", "auto", 0.0)
    with pytest.raises(Limited, match="tenant 'other'"):
        other.admit("m", "auto", 0.0)


def test_what_is_too_old_is_counted_no_longer_but_for_what_runs_here() -> None:
    grant, ledger = granted(Rule("sub", in_flight=3)), Ledger(9)
    for name, route, began in (("a", "queue", 1.0), ("b", "queue", 2.0), ("c", "direct", 3.0), ("d", "queue", 4.0)):
        request = OpenRequest("queue", cancels_on_disconnect=False, began=began, grant=grant)
        ledger.open(name, request)
        request.route = "direct" if route == "direct" else "queue"
    ledger.discard_older(2.0)
    assert list(ledger.opened) == ["b", "c", "d"]
    with pytest.raises(Limited):
        grant.admit("m", "auto", 0.0)
    ledger.discard_older(9.0)
    assert list(ledger.opened) == ["c", "d"]
    grant.admit("m", "auto", 0.0)


def test_users_of_one_tenant_share_a_budget() -> None:
    quotas = Quotas([Rule("tenant", requests_per_second=2)])
    grants = [quotas.grant({"sub": name, "tenant": "acme"}, 0.0) for name in "abc"]
    for grant in grants[:2]:
        assert grant is not None
        grant.admit("m", "auto", 0.0)
    last = grants[2]
    assert last is not None
    with pytest.raises(Limited, match="tenant 'acme' may ask 2 times a second") as refused:
        last.admit("m", "auto", 0.0)
    assert refused.value.retry_after_ms == 500
    last.admit("m", "auto", 0.5)
    assert quotas.grant({"sub": "d"}, 0.0) is None  # no rule concerns it


def test_calls_without_a_session_count_too() -> None:
    grant = granted(Rule("sub", in_flight=1))
    grant.acquire()
    with pytest.raises(Limited):
        grant.admit("m", "direct", 0.0)
    grant.release()
    grant.admit("m", "direct", 0.0)


def test_sessions_and_one_that_comes_back() -> None:
    grant = granted(Rule("sub", sessions=2))
    for name in ("one", "two"):
        grant.connect(name)
        grant.enter(name)
    with pytest.raises(Limited, match="2 sessions of sub 'ann' are connected") as refused:
        grant.connect("three")
    assert refused.value.limit == "sessions"
    grant.connect("one")  # the same one again takes no place more
    grant.leave("one")
    grant.connect("three")


def test_models_and_routes() -> None:
    grant = granted(Rule("sub", models=("digits", "chat-*")), Rule("plan", "free", routes=("queue",)), plan="free")
    assert grant.allow("digits", "auto") == "queue"
    assert grant.allow("chat-7", "queue") == "queue"
    with pytest.raises(Forbidden, match="does not allow model 'other'") as refused:
        grant.allow("other", "queue")
    assert refused.value.code is Code.FORBIDDEN
    with pytest.raises(Forbidden, match="does not allow route 'direct'"):
        grant.allow("digits", "direct")


@pytest.mark.parametrize(
    ("claim", "fits"),
    [("gold", True), (["x", "gold"], True), ("silver", False), (["x"], False), (None, False), (7, False)],
)
def test_a_rule_for_one_value_fits_only_that(claim: object, fits: bool) -> None:
    grant = Quotas([Rule("plan", "gold", priority="high")]).grant({"sub": "a", "plan": claim}, 0.0)
    assert (grant is not None) == fits


def test_a_refused_request_takes_nothing_of_the_rate() -> None:
    grant = granted(Rule("sub", models=("digits",), requests_per_second=1))
    for _ in range(5):
        with pytest.raises(Forbidden):
            grant.admit("other", "auto", 0.0)
    grant.admit("digits", "auto", 0.0)


def test_priorities_leave_room_for_those_that_go_first() -> None:
    rooms = {p: granted(Rule("sub", priority=p)).room(64) for p in ("low", "normal", "high")}
    assert rooms == {"low": 32, "normal": 64, "high": 80}
    assert granted(Rule("sub", priority="low")).room(1) == 1


def test_accounts_that_count_nothing_are_forgotten() -> None:
    quotas = Quotas([Rule("sub", requests_per_second=1)])
    kept = quotas.grant({"sub": "kept"}, 0.0)
    assert kept is not None
    kept.enter("s")
    for number in range(25_000):
        assert quotas.grant({"sub": f"u{number}"}, number / 1000) is not None
    assert len(quotas) <= 10_001
    again = quotas.grant({"sub": "kept"}, 30.0)
    assert again is not None
    kept.admit("m", "auto", 30.0)
    with pytest.raises(Limited):
        again.admit("m", "auto", 30.0)


def test_what_an_answer_takes_is_learnt_and_forgotten() -> None:
    latency = LatencyEstimator()
    assert latency.estimate("m", 0.0) == 0
    latency.observe("m", 1.0, 0.0)
    assert latency.estimate("m", 1.0) == 1.0
    latency.observe("m", 2.0, 1.0)
    assert latency.estimate("m", 1.0) == pytest.approx(1.2)
    assert latency.estimate("other", 1.0) == 0
    assert latency.estimate("m", 11.5) == 0  # nothing has borne it out
    latency.observe("m", 5.0, 19.0)
    assert latency.estimate("m", 19.0) == 5.0
