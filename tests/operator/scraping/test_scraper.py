"""The load of real gateways, asked as the operator asks them."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from harness.certificates import Authority
from harness.pair import Gateway, Inference, token
from harness.processes import free_port
from podpair.operator.controller.load_monitor import addresses
from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.scraping.scraper import Scraper

KEY = ("default", "digits")


async def test_a_gateway_tells_its_sessions_and_its_model_s_latency(pair: Gateway, inference: Inference) -> None:
    scraper = Scraper()
    try:
        async with aiohttp.ClientSession() as http:
            before = await scraper.scrape(KEY, {"a": pair.operations})
            async with http.ws_connect(pair.ws, headers={"Authorization": f"Bearer {token()}"}) as ws:
                await ws.receive_json()
                request = {"type": "infer", "id": "1", "model": "digits", "data": [0.0] * 64, "route": "direct"}
                await ws.send_str(json.dumps(request))
                while (await ws.receive_json())["type"] != "result":
                    pass
                seen = await scraper.scrape(KEY, {"a": pair.operations})
        assert before.sessions is not None
        assert (seen.sessions, seen.inflight, seen.lag) == (before.sessions + 1, 0, None)
        assert seen.latency is not None
        assert 0 < seen.latency < 0.5
    finally:
        await scraper.close()


async def test_a_pod_with_tls_is_asked_without(
    inference: Inference, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    issued = Authority("podpair test pods").issue("gateway", ("models.example",))
    (tmp_path / "tls.crt").write_text(issued.certificate)
    (tmp_path / "tls.key").write_text(issued.key)
    http = {"certificate_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    config = {"http": http, "kafka": {"embedded": True}, "inference": {"url": inference.url}}
    gateway = await asyncio.to_thread(start_gateway, config)
    await asyncio.to_thread(gateway.wait_for_message, "ready")
    scraper = Scraper()
    try:
        assert gateway.url.startswith("https://")
        assert (await scraper.scrape(KEY, {"a": gateway.operations})).sessions == 0
    finally:
        await scraper.close()


def test_each_ready_pod_is_asked_at_its_operators_port() -> None:
    def pod(name: str, address: str, ready: str = "True") -> dict[str, Any]:
        status = {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]}
        return {"metadata": {"name": name}, "spec": {"containers": [{"name": "gateway"}]}, "status": status}

    pods = [pod("one", "10.0.0.1"), pod("two", "fd00::1"), pod("three", "10.0.0.3", "False")]
    assert addresses(pods) == {"one": "http://10.0.0.1:8083", "two": "http://[fd00::1]:8083"}


async def test_pods_that_don_t_answer_are_unknown_and_keep_nobody_waiting(pair: Gateway) -> None:
    release = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scraper = Scraper()
    try:
        for url in (f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{port}", f"{pair.operations}/nowhere"):
            assert await scraper.scrape(KEY, {"good": pair.operations, "bad": url}) == MetricValues()
        assert (await scraper.scrape(KEY, {"good": pair.operations})).sessions is not None
    finally:
        release.set()
        server.close()
        await scraper.close()
