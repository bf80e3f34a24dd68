"""What a pod answers, and how slowly, costs nobody but its own resource."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from harness.waiting import soon
from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.scraping.metrics_parser import read_load
from podpair.operator.scraping.scraper import ScrapeLimits, Scraper

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Pods = Callable[[Answer], Awaitable[str]]

METRICS = b"""# HELP podpair_gateway_sessions Sessions
# TYPE podpair_gateway_sessions gauge
podpair_gateway_sessions{transport="ws"} 3.0
# TYPE podpair_gateway_direct_in_flight gauge
podpair_gateway_direct_in_flight 1.0
# TYPE podpair_gateway_queue_in_flight gauge
podpair_gateway_queue_in_flight 1.0
"""
GOOD = MetricValues(sessions=3, inflight=2)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return give


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\n#\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)  # its pace


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"#" * 65536 + b"\r\n")
        await writer.drain()


@pytest.fixture
async def pods() -> AsyncIterator[Pods]:
    """`await pods(answer)` is the URL of a pod that answers so, each time."""
    servers: list[asyncio.Server] = []
    open_now: set[asyncio.StreamWriter] = set()

    async def start(give: Answer) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_now.add(writer)
            try:
                await reader.readuntil(b"\r\n\r\n")
                await give(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()
                open_now.discard(writer)

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return "http://127.0.0.1:{1}".format(*servers[-1].sockets[0].getsockname())

    yield start
    for server in servers:
        server.close()
    for writer in open_now:
        writer.transport.abort()
    await soon(lambda: not open_now)


MANY = METRICS + b"".join(b'podpair_gateway_sessions{a="%d"} 1.0\n' % number for number in range(20_000))
WRONG: dict[str, Answer] = {
    "says nothing": silent,
    "never ends, slowly": slow,
    "never ends, fast": endless,
    "too long": answer(METRICS + b"#" * (3 << 20)),
    "too long once it is unpacked": answer(gzip.compress(METRICS + b"#" * (8 << 20)), "Content-Encoding: gzip"),
    "too many lines": answer(MANY),
    "leads elsewhere": answer(b"", "Location: http://127.0.0.1:1/metrics", status="302 Found"),
    "no metrics": answer(b"<html>"),
    "no text": answer(b"\xff" * 100),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_pod_that_answers_wrongly_is_unknown(pods: Pods, how: str) -> None:
    scraper = Scraper()
    try:
        async with asyncio.timeout(60):
            bad = await pods(WRONG[how])
            good = await pods(answer(METRICS))
            assert await scraper.scrape(("a", "bad"), {"bad": bad}) == MetricValues()
            assert (await scraper.scrape(("a", "good"), {"good": good})).sessions == 3
    finally:
        await scraper.close()


async def test_silent_pods_of_one_keep_no_other_waiting(pods: Pods) -> None:
    limits = ScrapeLimits(pod_seconds=30.0, resource_seconds=60.0, connections=8, resource_connections=2)
    now, asked = 0.0, []

    async def silent_when_asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        await silent(reader, writer)

    scraper = Scraper(lambda: now, limits)
    try:
        mute, good = await pods(silent_when_asked), await pods(answer(METRICS))
        assert (await scraper.scrape(("b", "good"), {"good": good})).sessions == 3
        bad = [
            asyncio.create_task(scraper.scrape(("a", f"bad-{number}"), {str(pod): mute for pod in range(50)}))
            for number in range(20)
        ]
        await soon(lambda: len(asked) == limits.connections // 2)  # as many as may be unanswered
        # They wait for one another; who has answered before doesn't wait for them.
        async with asyncio.timeout(20):
            for _ in range(3):
                now += 100.0  # what it told before counts no more
                assert (await scraper.scrape(("b", "good"), {"good": good})).sessions == 3
        for task in bad:
            task.cancel()
        await asyncio.wait(bad)
    finally:
        await scraper.close()


async def test_all_pods_of_a_resource_have_one_time_together(pods: Pods) -> None:
    scraper = Scraper(limits=ScrapeLimits(pod_seconds=30.0, resource_seconds=0.5, resource_connections=1))
    try:
        mute = await pods(silent)
        async with asyncio.timeout(20):
            assert await scraper.scrape(("a", "bad"), {str(pod): mute for pod in range(100)}) == MetricValues()
    finally:
        await scraper.close()


async def test_a_pod_that_does_not_answer_is_asked_less_often_and_again_once_it_does(pods: Pods) -> None:
    asked: list[int] = []
    rounds = 0
    well = asyncio.Event()

    async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(rounds)
        await answer(METRICS if well.is_set() else b"no")(reader, writer)

    scraper = Scraper(limits=ScrapeLimits(skipped=2))
    try:
        url = await pods(moody)
        for rounds in range(10):  # noqa: B007 - the pod reads it
            await scraper.scrape(("a", "moody"), {"pod": url})
        assert asked == [0, 1, 3, 6, 9]
        well.set()
        for rounds in range(10, 16):  # noqa: B007
            seen = await scraper.scrape(("a", "moody"), {"pod": url})
        assert asked[5:] == [12, 13, 14, 15]
        assert seen.sessions == 3
        scraper.forget(("a", "moody"))
        assert (await scraper.scrape(("a", "moody"), {"pod": url})).sessions == 3
    finally:
        await scraper.close()


def test_other_metrics_are_not_read_however_many_there_are() -> None:
    others = b"".join(b'other_metric{a="%d"} 1.0\n' % number for number in range(50_000))
    assert read_load((METRICS + others).decode()).sessions == 3
