"""`make llm`: a small language model in the pair, behind OpenAI's API.

Prints one line when all of it answers, and what to try next. Ctrl-C ends it.
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from parts import Part, at_kafka, ended_by_signals, free  # noqa: E402

BIN = Path(sys.executable).parent
CONFIG = HERE / "llm.yaml"


def tell(address: str, operations: str, kafka: str, seconds: float) -> None:
    """Print what is there, and what to try."""
    token = f"$({os.path.relpath(BIN)}/podpair-gateway token --config {os.path.relpath(CONFIG)})"
    body = '{"model": "llm", "stream": true, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}'
    print(
        f"podpair llm: ready at {address} in {seconds:.1f} s"
        f" · inference (SmolLM2-135M-Instruct, llama.cpp) · gateway · Kafka at {kafka}\n"
        f"  ask    curl -sN {address}/v1/chat/completions -H \"Authorization: Bearer {token}\" -d '{body}'\n"
        f'  use    OPENAI_BASE_URL={address}/v1 OPENAI_API_KEY="{token}" with any client of OpenAI\'s API\n'
        f"  look   {operations}/readyz and /metrics: the operators' port\n"
        f"  stop   Ctrl-C",
        flush=True,
    )


async def run(options: argparse.Namespace) -> int:
    """Start the pair, and end it when a signal comes, or where it can't start."""
    started = time.monotonic()
    stop = ended_by_signals()
    port, operations, model = (free(port, "llm") for port in (options.port, 0, 0))
    env = at_kafka(options.kafka) | {
        "PODPAIR_INFERENCE__URL": f"http://127.0.0.1:{model}",
        "PODPAIR_OPERATIONS__PORT": str(operations),
    }
    serve = ("serve", "--models", HERE / "models", "--port", str(model))
    program = options.environment / "bin/podpair-inference"
    inference = Part("inference", program, *serve, env={"PODPAIR_GRPC__ENABLED": "false"})
    gateway = Part("gateway", BIN / "podpair-gateway", "serve", "--config", CONFIG, "--port", str(port), env=env)
    await asyncio.gather(inference.start(), gateway.start())
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.gather(inference.until("ready"), gateway.until("ready"), gateway.until("inference at"))
    status = 0
    try:
        await asyncio.wait([ready, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await ready
            embedded = next((told for told in gateway.told.values() if "kafka" in told), {})
            address = str(options.kafka or embedded.get("kafka"))
            tell(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{operations}", address, time.monotonic() - started)
            await stopped
    except RuntimeError as error:
        print(f"podpair llm: {error}", file=sys.stderr)
        status = 1
    ready.cancel()
    inference.quiet = gateway.quiet = True
    # As in a pod: the gateway first, and the model after it.
    await gateway.stop()
    await inference.stop()
    if status == 0:
        print("podpair llm: stopped")
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="the gateway's port; 0 takes a free one")
    parser.add_argument("--kafka", help="host:port of a real broker; without it one is embedded")
    parser.add_argument("--environment", type=Path, required=True, help="where requirements.lock is installed")
    sys.exit(asyncio.run(run(parser.parse_args())))
