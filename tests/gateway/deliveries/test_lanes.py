"""How long a host that is away is remembered."""

import time

import pytest

from podpair.common.gateway_config.deliveries import Deliveries
from podpair.gateway.core.deliveries.subscriptions import Subscription
from podpair.gateway.core.deliveries.urls import UrlRules
from podpair.gateway.deliveries.attempt import Attempt
from podpair.gateway.deliveries.lanes import Lanes

AWAY = Attempt("retry", "connection", "no connection", host_failed=True)


async def test_a_host_that_nobody_has_anything_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Deliveries(retry_seconds=(5, 600), circuit_failures=1)
    lanes, now = Lanes(config, UrlRules()), time.monotonic()
    subscription = Subscription("sub_1", "webhook", "https://example.com/", "session", "s", "", 0, 1)
    lane = lanes.of(subscription)
    async with lane.place(1):
        lane.report(AWAY)
    monkeypatch.setattr(time, "monotonic", lambda: now + 660)  # it may be tried again until then
    assert list(lanes.open_circuits()) == ["example.com:443"]
    monkeypatch.setattr(time, "monotonic", lambda: now + 800)
    assert lanes.open_circuits() == {}
    assert lanes.of(subscription) is not lane
