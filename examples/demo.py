"""`make demo`: the whole pair on this machine, started by its own two commands, and a way to kill the model and see.

Prints one line when all of it answers, and what to try next. Ctrl-C ends it.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from aiohttp import web
from parts import Part, at_kafka, ended_by_signals, free

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CONFIG = HERE / "demo.yaml"
RESTART = 4.0  # seconds that a killed model stays away: long enough to watch requests wait


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
    started = time.monotonic()
    stop = ended_by_signals()
    port, operations_port, model_port, control_port = (free(port, "demo") for port in (options.port, 0, 0, 0))
    address = f"http://127.0.0.1:{port}"
    inference = Part(
        "inference", BIN / "podpair-inference", "serve", "--models", HERE / "models", "--port", str(model_port)
    )
    env = at_kafka(options.kafka) | {
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
    inference.quiet = gateway.quiet = True
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
