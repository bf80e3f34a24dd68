"""What autoscalers go by, from what pods told: by itself, on a clock of its own."""

import asyncio
import math

import pytest
from aiohttp import web
from prometheus_client import generate_latest

from harness.processes import free_port
from podpair.gateway.metrics import Metrics
from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.core.latency import increase, quantile
from podpair.operator.core.load import PodLoad, Window
from podpair.operator.scraping.metrics_parser import read_load
from podpair.operator.scraping.scraper import Scraper

INF = math.inf


@pytest.mark.parametrize(
    ("share", "buckets", "told"),
    [
        (0.95, {0.1: 100, 0.5: 100, INF: 100}, 0.095),
        (0.5, {0.1: 50, 0.5: 100, INF: 100}, 0.1),
        (0.95, {0.1: 50, 0.5: 100, INF: 100}, 0.1 + 0.4 * 45 / 50),
        (0.95, {0.1: 0, 0.5: 10, INF: 100}, 0.5),  # longer than any bound
        (0.95, {0.1: 0, INF: 0}, None),
        (0.95, {INF: 3}, None),
        (0.95, {}, None),
    ],
)
def test_quantiles_are_those_of_histogram_quantile(share: float, buckets: dict[float, float], told: float) -> None:
    found = quantile(share, buckets)
    assert found == (None if told is None else pytest.approx(told))


def test_a_process_that_began_anew_counts_from_nothing() -> None:
    assert increase({0.1: 5, INF: 9}, {0.1: 7, INF: 12}) == {0.1: 2, INF: 3}
    assert increase({0.1: 5, INF: 9}, {0.1: 1, INF: 2}) == {0.1: 1, INF: 2}


def load(sessions: int = 1, inflight: int = 0, fast: float = 0, slow: float = 0) -> PodLoad:
    return PodLoad(sessions, inflight, {0.1: fast, 0.5: fast + slow, INF: fast + slow})


def test_pods_are_added_up() -> None:
    window = Window()
    window.add(0, {"a": load(3, 1), "b": load(4, 2)})
    assert window.values(0) == MetricValues(sessions=7, inflight=3)


def test_a_queue_that_all_pods_see_counts_once_and_what_each_has_of_it_is_added() -> None:
    window = Window()
    window.add(0, {"a": PodLoad(0, 3, None, 40, 3), "b": PodLoad(0, 5, None, 42, 5), "c": PodLoad(0, 0, None)})
    assert window.values(0).amqp_lag == 50
    window.add(1, {"a": load()})
    assert window.values(1).amqp_lag is None


@pytest.mark.parametrize(
    ("source", "kafka", "amqp", "lag"),
    [(None, 7, None, 7), (None, None, None, None), ("amqp", None, 5, 5), ("amqp", 7, None, None), ("both", 7, 5, 12),
     ("both", None, 5, None), ("both", 7, None, None)],
)  # fmt: skip
def test_lag_is_of_where_requests_come_from(
    source: str | None, kafka: int | None, amqp: int | None, lag: int | None
) -> None:
    assert MetricValues(amqp_lag=amqp).with_lag(kafka, source).lag == lag


def test_latency_is_of_the_last_minute_over_all_pods() -> None:
    window = Window()
    window.add(0, {"a": load(fast=1000), "b": load(slow=1000)})
    window.add(30, {"a": load(fast=1050), "b": load(slow=1050)})
    assert window.values(30).latency == pytest.approx(0.1 + 0.4 * 45 / 50)
    window.add(60, {"a": load(fast=1100), "b": load(slow=1050)})
    window.add(90, {"a": load(fast=1150), "b": load(slow=1050)})
    assert window.values(90).latency == pytest.approx(0.095)


def test_no_requests_are_no_latency_and_requests_that_do_not_end_are_an_unknown_one() -> None:
    window = Window()
    window.add(0, {"a": load(fast=9)})
    assert window.values(0).latency is None  # seen once
    window.add(15, {"a": load(fast=9)})
    assert window.values(15).latency == 0.0
    window.add(30, {"a": load(inflight=1, fast=9)})
    assert window.values(30).latency is None


def test_a_pod_that_tells_no_latency_makes_it_unknown() -> None:
    window = Window()
    for now in (0, 15):
        window.add(now, {"a": load(fast=now), "b": PodLoad(1, 0, None)})
    assert window.values(15) == MetricValues(sessions=2, inflight=0)


def test_a_pod_that_can_t_be_asked_counts_for_a_while_and_then_nothing_is_known() -> None:
    window = Window()
    window.add(0, {"a": load(3), "b": load(4)})
    window.add(15, {"a": load(3), "b": None})
    assert window.values(15).sessions == 7
    window.add(75, {"a": load(3), "b": None})
    assert window.values(75) == MetricValues()
    window.add(76, {"a": load(3)})  # it is gone
    assert window.values(76).sessions == 3


def test_a_pod_that_was_never_asked_makes_all_unknown_as_does_none() -> None:
    window = Window()
    assert window.values(0) == MetricValues()
    window.add(0, {"a": load(), "b": None})
    assert window.values(0) == MetricValues()
    window.add(1, {})
    assert window.values(1) == MetricValues()


def test_other_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="podpair_gateway_sessions"):
        read_load("up 1\n")


def test_a_model_that_never_tells_its_latency_is_told_from_one_that_is_busy() -> None:
    silent, window = PodLoad(1, 0, None), Window()
    for now, told in ((0, False), (5, False), (10, True)):
        window.add(now, {"a": load(), "b": silent})
        assert window.without_latency is told
    window.add(15, {"a": load()})  # the other one has gone
    assert not window.without_latency
    for now in range(20, 80, 5):  # and this one, which has told some once, doesn't get to it
        window.add(now, {"a": silent})
    assert not window.without_latency
    for now in range(80, 200, 5):  # what can't be asked tells nothing, of latency neither
        window.add(now, {"c": None})
    assert not window.without_latency


async def _pod_that_tells(text: str, port: int) -> web.AppRunner:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


@pytest.mark.parametrize("latency", [True, False])
def test_the_scraper_tells_servers_by_what_their_pods_tell(latency: bool) -> None:
    """The family is there from podpair-inference's first moment, also before anybody asked it."""
    own = "podpair_gateway_sessions 1\npodpair_gateway_direct_in_flight 0\npodpair_gateway_queue_in_flight 0\n"
    text = own + ("# TYPE inference_request_duration_seconds histogram\n" if latency else "")
    port, key = free_port(), ("default", "digits")

    async def asked() -> list[bool]:
        pod, scraper = await _pod_that_tells(text, port), Scraper()
        told = []
        for _ in range(4):
            assert (await scraper.scrape(key, {"a": f"http://127.0.0.1:{port}"})).sessions == 1
            told.append(scraper.without_latency(key))
        scraper.forget(key)
        told.append(scraper.without_latency(key))
        await scraper.close()
        await pod.cleanup()
        return told

    assert asyncio.run(asked()) == ([False] * 5 if latency else [False, False, True, True, False])


def test_a_gateway_s_own_metrics_tell_of_rabbitmq_if_it_takes_from_there() -> None:
    metrics = Metrics()
    metrics.amqp_length.source = lambda: {"q": 7}
    metrics.amqp_in_flight.set(2)
    metrics.working.set(3)
    found = read_load(generate_latest(metrics.registry).decode())
    assert (found.inflight, found.waiting, found.amqp_inflight) == (3, 7, 2)
    metrics.amqp_length.source = dict  # not known now
    assert read_load(generate_latest(metrics.registry).decode()).waiting is None
