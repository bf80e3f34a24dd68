"""A V2 server of rows in the test's own loop, and what asks it: the gateway's way to the model without its public port."""

import asyncio
import contextlib
import json
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.metrics import Metrics
from podpair.gateway.upstream.client import InferenceClient
from podpair.gateway.upstream.readiness import Readiness
from podpair.gateway.upstream.rest import RestUpstream

PATIENCE = 60.0


class RowsServer:
    """Answers each row [a, b] with its sum. What its models are like is in their names.

    A row whose first number is 13 fails the call with 400, one of 14 with 500.

    `silent`, `scaled` and `labels` don't say whether their rows may share a call: the first's may, the second's are scaled by the
    largest number of a call, as a dynamically quantised model's, and the third answers with signs alone. `quotients` has a by b.
    """

    def __init__(self) -> None:
        self.binary = True
        self.open = asyncio.Event()
        self.open.set()
        self.calls: list[dict[str, Any]] = []  # the JSON of each call, its rows, and its headers
        self.arrived = asyncio.Condition()
        self.given_up = 0  # calls whose client went away
        self.described = 0  # times that metadata was asked for
        self.gone: set[str] = set()  # models that were unloaded
        self.answers_as: dict[
            str, str
        ] = {}  # model → the version that answers name, where its metadata has another one
        self._like: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._widths: dict[str, int] = {}
        self._inputs: dict[str, str] = {}

    def reload(self, name: str, *, like: str = "", version: str = "1", width: int = 2, takes: str = "x") -> None:
        """Exchange a model: what it is like from now on, its version, how many numbers its rows have, and its input's name."""
        self._like[name], self._versions[name], self._widths[name] = like or name, version, width
        self._inputs[name] = takes

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v2", self._server)
        app.router.add_get("/v2/health/ready", self._ready)
        app.router.add_get("/v2/models/{model}", self._metadata)
        app.router.add_get("/v2/models/{model}/config", self._config)
        app.router.add_post("/v2/models/{model}/infer", self._infer)
        app.router.add_post("/v2/models/streams/generate_stream", self._stream)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        self.open.set()
        await self._runner.cleanup()

    @property
    def rows(self) -> list[int]:
        """How many rows each call had."""
        return [len(call["rows"]) for call in self.calls]

    async def had(self, calls: int) -> None:
        """Return once so many calls have come."""
        async with asyncio.timeout(PATIENCE), self.arrived:
            await self.arrived.wait_for(lambda: len(self.calls) >= calls)

    async def _server(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "rows", "extensions": ["binary_tensor_data"] if self.binary else []})

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metadata(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        self.described += 1
        if name == "absent" or name in self.gone:
            return web.json_response({"error": "no such model"}, status=404)
        rows = 1 if name == "fixed" else -1
        return web.json_response({
            "name": name, "versions": ["1", "2"] if name == "versions" else [self._versions.get(name, "1")],
            "inputs": [{"name": self._inputs.get(name, "x"), "datatype": "FP32", "shape": [rows, self._widths.get(name, 2)]}],
            "outputs": [{"name": "y", "datatype": "INT64" if name == "labels" else "FP32", "shape": [rows]}],
        })  # fmt: skip

    async def _config(self, request: web.Request) -> web.Response:
        says = {
            **{name: {"max_batch_size": 4096} for name in ("rows", "odd", "versions", "quotients")},
            "four": {"max_batch_size": 4},
            "dependent": {"max_batch_size": 64, "parameters": {"rows": {"string_value": "dependent"}}},
            "independent": {"max_batch_size": 64, "parameters": {"rows": {"string_value": "independent"}}},
            "quotients_alone": {"max_batch_size": 1},
            "single": {"max_batch_size": 1},
            "unbatched": {"max_batch_size": 0},
            "two": {"max_batch_size": 4096, "instance_group": [{"count": 2}]},
        }
        name = request.match_info["model"]
        name = self._like.get(name, name)
        return web.json_response(says[name]) if name in says else web.json_response({"error": "what?"}, status=404)

    async def _stream(self, request: web.Request) -> web.Response:
        row = (await request.json()).get(self._inputs.get("streams", "x"))
        if row is None:
            return web.json_response({"error": "an input is missing"}, status=400)
        events = "".join(f"data: {json.dumps({'y': value})}\n\n" for value in row)
        return web.Response(text=events, content_type="text/event-stream")

    async def _infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        length = request.headers.get("Inference-Header-Content-Length")
        document = json.loads(body[: int(length)] if length else body)
        tensor = document["inputs"][0]
        flat = struct.unpack(f"<{len(body[int(length) :]) // 4}f", body[int(length) :]) if length else tensor["data"]
        if flat and isinstance(flat[0], list):
            flat = [value for row in flat for value in row]
        name = request.match_info["model"]
        width, version = self._widths.get(name, 2), self.answers_as.get(name) or self._versions.get(name, "1")
        name = self._like.get(name, name)
        rows = [flat[i : i + width] for i in range(0, len(flat), width)]
        async with self.arrived:
            self.calls.append({"document": document, "rows": rows, "headers": request.headers, "raw": bool(length)})
            self.arrived.notify_all()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if request.match_info["model"] in self.gone:
            return web.json_response({"error": "no such model"}, status=404)
        if tensor["shape"][-1] != width and len(tensor["shape"]) > 1:
            return web.json_response({"error": f"rows of {width} numbers"}, status=400)
        if any(row[0] == 13 for row in rows):
            return web.json_response({"error": "thirteen"}, status=400)
        if any(row[0] == 14 for row in rows):
            return web.json_response({"error": "fourteen"}, status=500)
        sums = [sum(row) for row in rows]
        if name.startswith("quotients"):
            sums = [row[0] / row[1] if row[1] else row[0] * math.inf for row in rows]
        if name == "scaled":
            step = max(abs(value) for row in rows for value in row) / 7 or 1
            sums = [sum(round(value / step) * step for value in row) for row in rows]
        if name == "labels":
            return web.json_response({"outputs": [{"name": "y", "datatype": "INT64", "shape": [len(sums)],
                                                   "data": [int(total > 0) for total in sums]}]})  # fmt: skip
        if name == "odd":
            sums = [sum(sums)]
        output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": [len(sums)]}
        if document.get("parameters", {}).get("binary_data_output"):
            raw = struct.pack(f"<{len(sums)}f", *sums)
            output["parameters"] = {"binary_data_size": len(raw)}
            head = json.dumps({"outputs": [output], "model_version": version}).encode()
            return web.Response(body=head + raw, headers={"Inference-Header-Content-Length": str(len(head))})
        return web.json_response({"outputs": [output | {"data": sums}], "model_version": version})


class Asker:
    """Asks through the gateway's upstream side."""

    def __init__(self, inference: InferenceClient, metrics: Metrics) -> None:
        self.inference = inference
        self.metrics = metrics

    def ask(self, request_id: str, row: Any, model: str = "rows", **members: Any) -> "asyncio.Task[dict[str, Any]]":
        """The body of the result, sometime; a list of two numbers goes as the edge reads it."""
        given: dict[str, Any] = {"row": row} if isinstance(row, list) else {"data": json.dumps(row).encode()}
        if "inputs" in members:
            given = {"inputs": json.dumps(members.pop("inputs")).encode()}
        if "parameters" in members:
            members["parameters"] = json.dumps(members["parameters"]).encode()

        async def answer() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(
                await self.inference.infer(InferenceRequest(request_id, model, **given, **members))
            )
            return found

        return asyncio.create_task(answer())

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"podpair_gateway_{name}", labels) or 0.0


@pytest.fixture
async def rows_server() -> AsyncIterator[RowsServer]:
    server = RowsServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def asker(rows_server: RowsServer) -> AsyncIterator[Callable[..., Awaitable[Asker]]]:
    """`await asker(batching={…})`: the way from a question to the server."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(**sections: Any) -> Asker:
            own: dict[str, Any] = {
                "auth": {"disabled": True},
                "inference": {"url": rows_server.url, "timeout_seconds": 5},
            }
            config = Config.model_validate(own | sections)
            metrics = Metrics()
            upstream = RestUpstream(config.inference)
            stack.push_async_callback(upstream.close)
            readiness = Readiness(upstream, 60)
            stack.push_async_callback(readiness.close)
            await readiness.wait()
            inference = InferenceClient(config, upstream, readiness, metrics)
            stack.push_async_callback(inference.close)
            return Asker(inference, metrics)

        yield begin
