"""`make demo`: the whole pair on this machine, started by its own two commands, and a way to kill the model and see.

Prints one line when all of it answers, and what to try next. Ctrl-C ends it.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CONFIG = HERE / "demo.yaml"
RESTART = 4.0  # seconds that a killed model stays away: long enough to watch requests wait
SHOWN = {"WARNING", "ERROR", "CRITICAL"}


class Part:
    """One of the two processes; its log is read for what the demo tells about it."""

    def __init__(self, name: str, *command: str | Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self._command = [str(part) for part in command]
        self._env = os.environ | (env or {})
        self.process: asyncio.subprocess.Process | None = None
        self.told: dict[str, dict[str, Any]] = {}  # log records by message, the newest
        self._news = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.told.clear()
        self.process = await asyncio.create_subprocess_exec(
            *self._command, env=self._env, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C comes to the demo alone, which ends its parts in order
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self.process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101
        async for line in process.stderr:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                record = {"message": line.decode(errors="replace").rstrip(), "level": "ERROR"}
            if record.get("level") in SHOWN and not stopping:
                print(f"  {self.name}: {record['message']}", file=sys.stderr, flush=True)
            async with self._news:
                self.told[record["message"]] = record
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    async def until(self, message: str) -> dict[str, Any]:
        """The log record whose message begins so. Raises RuntimeError where the process ends without it."""
        assert self._reading is not None  # noqa: S101
        async with self._news:
            while True:
                found = next((r for m, r in self.told.items() if m.startswith(message)), None)
                if found is not None:
                    return found
                if self._reading.done() or (self.process is not None and self.process.returncode is not None):
                    raise RuntimeError(f"{self.name} ended before it was ready")
                await self._news.wait()

    async def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()
        if self._reading is not None:
            await self._reading


stopping = False


class Model:
    """The inference process, which the console may kill; it comes back by itself, as in a pod."""

    def __init__(self, part: Part, origin: str) -> None:
        self._part = part
        self._origin = origin
        self._returning: asyncio.Task[None] | None = None
        self.state = "running"

    async def handle(self, request: web.Request) -> web.Response:
        headers = {"Access-Control-Allow-Origin": self._origin}
        if request.method == "POST" and self.state == "running":
            if request.headers.get("Origin") != self._origin:
                return web.json_response({"error": "only the demo's console may do that"}, status=403)
            self.state = "down"
            await self._part.stop(signal.SIGKILL)
            self._returning = asyncio.create_task(self._return())
        return web.json_response({"state": self.state}, headers=headers)

    async def _return(self) -> None:
        await asyncio.sleep(RESTART)
        await self._part.start()
        await self._part.until("ready")
        self.state = "running"

    async def close(self) -> None:
        if self._returning is not None:
            self._returning.cancel()


def free(port: int) -> int:
    """The port, or a free one where it is 0. Ends the demo where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            sys.exit(f"podpair demo: port {port} is taken; try: make demo PORT={port + 10}")
        return int(probe.getsockname()[1])


def tell(address: str, operations: str, kafka: str, embedded: bool, started: float) -> None:
    """What is there, and what to try."""
    command = f"{os.path.relpath(BIN)}/podpair-gateway"
    where = f"embedded at {kafka}" if embedded else f"at {kafka}"
    print(
        f"podpair demo: ready at {address} in {time.monotonic() - started:.1f} s"
        f" · inference (digits, ONNX Runtime) · gateway · Kafka {where}\n"
        f"  open   {address}/          draw a digit, cut the wire, watch it resume\n"
        f'  push   {command} push --kafka {kafka} --session console/demo \'{{"hello": "world"}}\'\n'
        f'  ask    curl -s {address}/v2/models/digits/infer -H "Authorization: Bearer $({command} token --config'
        f' {os.path.relpath(CONFIG)})" -d @examples/digits/request.json\n'
        f"  look   {operations}/readyz and /metrics: the operators' port\n"
        f"  stop   Ctrl-C",
        flush=True,
    )


async def run(options: argparse.Namespace) -> int:
    global stopping
    started = time.monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    port, operations_port, model_port, control_port = free(options.port), free(0), free(0), free(0)
    address = f"http://127.0.0.1:{port}"
    inference = Part(
        "inference", BIN / "podpair-inference", "serve", "--models", HERE / "models", "--port", str(model_port)
    )
    kafka = (
        {"PODPAIR_KAFKA__BOOTSTRAP_SERVERS": options.kafka} if options.kafka else {"PODPAIR_KAFKA__EMBEDDED": "true"}
    )
    env = kafka | {
        "PODPAIR_INFERENCE__URL": f"http://127.0.0.1:{model_port}",
        "PODPAIR_OPERATIONS__PORT": str(operations_port),
        "PODPAIR_CONSOLE__DEMO_URL": f"http://127.0.0.1:{control_port}",
    }
    gateway = Part("gateway", BIN / "podpair-gateway", "serve", "--config", CONFIG, "--port", str(port), env=env)
    model = Model(inference, address)
    control = web.Application()
    control.router.add_get("/model", model.handle)
    control.router.add_post("/model/kill", model.handle)
    runner = web.AppRunner(control, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", control_port).start()
    await asyncio.gather(inference.start(), gateway.start())
    status = 0
    stopped = asyncio.create_task(stop.wait())
    try:
        ready = asyncio.gather(inference.until("ready"), gateway.until("ready"), gateway.until("inference at"))
        await asyncio.wait([asyncio.ensure_future(ready), stopped], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await ready
            embedded = gateway.told.get(next((m for m in gateway.told if m.startswith("embedded Kafka")), ""), {})
            operations = f"http://127.0.0.1:{operations_port}"
            tell(address, operations, options.kafka or embedded["kafka"], not options.kafka, started)
            await stopped
    except RuntimeError as error:
        print(f"podpair demo: {error}", file=sys.stderr)
        status = 1
    stopping = True
    await model.close()
    # As in a pod: the gateway first, and the model after it.
    await gateway.stop()
    await inference.stop()
    await runner.cleanup()
    if status == 0:
        print("podpair demo: stopped")
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="the gateway's port; 0 takes a free one")
    parser.add_argument("--kafka", help="host:port of a real broker; without it one is embedded")
    sys.exit(asyncio.run(run(parser.parse_args())))
