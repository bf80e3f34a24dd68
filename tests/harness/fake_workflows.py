"""A V2 server with workflows: their declarations, their steps as functions of the test, and models that compute on numbers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from harness.threaded_server import ThreadedServer

Emit = Callable[[dict[str, Any]], Awaitable[None]]
Step = Callable[[Any, dict[str, Any], Emit], Awaitable[Any]]
"""Gets the argument, the parameters of the call, and what to tell progress and checkpoints with; returns the output."""


class StepError(Exception):
    """Fails a step with a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeWorkflows(ThreadedServer):
    """Runs on a thread of its own. Models: any name that is no workflow's; it gives each number of its row doubled."""

    def __init__(self, port: int = 0) -> None:
        self.declared: dict[str, dict[int, dict[str, Any]]] = {}  # workflow → version → declaration
        self.steps: dict[str, Step] = {}
        self.asked: list[tuple[str, Any]] = []  # model, its row
        self.ran: list[dict[str, Any]] = []  # the parameters of each step that was begun
        self.failures: dict[str, list[int]] = {}  # model → the statuses that it answers with, one after the other
        self.delays: dict[str, float] = {}  # model → seconds that each call of it takes
        self.number = 0  # of the test
        super().__init__(port)

    def declare(self, name: str, declaration: dict[str, Any], version: int = 1) -> None:
        """Serve a workflow; the highest version is the one that serves by default."""
        self.declared.setdefault(name, {})[version] = declaration

    @property
    def flow(self) -> str:
        """A name for the test's workflow: gateways know for a while what was declared under a name."""
        return f"flow-{self.number}"

    def reset(self) -> None:
        """Forget all of it."""
        self.number += 1
        self.declared.clear()
        self.steps.clear()
        self.asked.clear()
        self.ran.clear()
        self.failures.clear()
        self.delays.clear()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v2/health/ready", self._health)
        router.add_get("/v2/models/{model}", self._metadata)
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            router.add_post(path + "/infer", self._infer)
            router.add_post(path + "/generate_stream", self._stream)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metadata(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name not in self.declared:
            tensors = {way: [{"name": letter, "datatype": "FP64", "shape": [-1, -1]}] for way, letter in _TENSORS}
            return web.json_response({"name": name, "versions": ["1"], **tensors})
        version = max(self.declared[name])
        texts = {way: [{"name": way[:-1], "datatype": "BYTES", "shape": [1]}] for way, _ in _TENSORS}
        about = {"platform": "podpair_workflow", "versions": [str(known) for known in sorted(self.declared[name])]}
        return web.json_response(
            {
                "name": name,
                **about,
                **texts,
                "parameters": {"version": str(version)},
                "workflow": self.declared[name][version],
            }
        )

    async def _infer(self, request: web.Request) -> web.Response:
        body, name = await request.json(), request.match_info["model"]
        row = body["inputs"][0]["data"]
        self.asked.append((name, row))
        await asyncio.sleep(self.delays.get(name, 0.0))
        if statuses := self.failures.get(name):
            return web.json_response({"error": f"told to fail {name}"}, status=statuses.pop(0))
        tensor = {"name": "y", "datatype": "FP64", "shape": body["inputs"][0]["shape"], "data": [2 * x for x in row]}
        return web.json_response({"outputs": [tensor], "model_version": "1"})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        parameters = body["parameters"] | {"version": request.match_info.get("version")}
        self.ran.append(parameters)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def event(members: dict[str, Any]) -> None:
            await response.write(b"data: %b\n\n" % json.dumps(members).encode())

        async def emit(chunk: dict[str, Any]) -> None:
            await event({"model_name": request.match_info["model"], "output": json.dumps(chunk)})

        try:
            await emit({"output": await self.steps[parameters["step"]](json.loads(body["input"]), parameters, emit)})
        except StepError as error:
            await event({"error": str(error), "status": error.status})
        return response


_TENSORS = (("inputs", "x"), ("outputs", "y"))
