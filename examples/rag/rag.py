"""`make rag`: PostgreSQL, the pair with its three models, and a page on which podpair is asked about itself.

It ingests the documents through Kafka and prints one line when all of it answers. Ctrl-C ends it.
"""

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import jwt
from aiohttp import web

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from parts import Part, at_kafka, ended_by_signals, free  # noqa: E402

BIN = Path(sys.executable).parent
_TOKEN_SECONDS = 3600


class Page:
    """The page, and the tokens with which it connects: what an application has beside its pair."""

    def __init__(self, gateway: str, secret: str) -> None:
        self._gateway = gateway
        self._secret = secret

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/", self.page)
        application.router.add_get("/connection", self.connection)
        application.router.add_get("/{source:.+[.]md}", self.document)
        return application

    async def page(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(HERE / "index.html")

    async def document(self, request: web.Request) -> web.FileResponse:
        path = (ROOT / request.match_info["source"]).resolve()
        if not path.is_relative_to(ROOT) or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": "text/plain; charset=utf-8"})

    async def connection(self, _: web.Request) -> web.Response:
        claims = {"sub": f"reader-{secrets.token_hex(8)}", "exp": int(time.time()) + _TOKEN_SECONDS}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        return web.json_response({"gateway": self._gateway, "token": token}, headers={"Cache-Control": "no-store"})


@asynccontextmanager
async def running(part: Part, *messages: str) -> AsyncIterator[None]:
    """Start a part, wait for these messages of its log, and stop it at the end."""
    await part.start()
    try:
        for message in messages:
            await part.until(message)
        yield
    finally:
        part.quiet = True
        await part.stop()


@asynccontextmanager
async def served(page: Page, port: int) -> AsyncIterator[None]:
    """Serve the page."""
    runner = web.AppRunner(page.application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


async def ingest(kafka: str, files: list[Path]) -> int:
    """Ingest documents as `make rag-ingest` does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "ingest.py"), "--kafka", kafka, *map(str, files), cwd=ROOT, start_new_session=True
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def inference(options: argparse.Namespace, port: int, database: str) -> Part:
    """The container of the models, in the example's own environment."""
    env = {
        "PYTHONPATH": str(HERE),  # where the models find `retrieval`
        "RAG_DATABASE_URL": database,
        "PODPAIR_GRPC__ENABLED": "false",
    }
    serve = ("serve", "--models", HERE / "models", "--port", str(port))
    return Part("inference", options.environment / "bin/podpair-inference", *serve, env=env)


def gateway(options: argparse.Namespace, ports: dict[str, int], secret: str) -> Part:
    """The gateway, on a broker of its own unless there is one."""
    env = at_kafka(options.kafka) | {
        "PODPAIR_AUTH__SECRET": secret,
        "PODPAIR_SESSIONS__RESUME_SECRET": secrets.token_urlsafe(32),
        "PODPAIR_HTTP__ORIGINS": f"http://127.0.0.1:{ports['page']},http://localhost:{ports['page']}",
        "PODPAIR_INFERENCE__URL": f"http://127.0.0.1:{ports['inference']}",
        "PODPAIR_OPERATIONS__PORT": str(ports["operations"]),
    }
    serve = ("serve", "--config", HERE / "rag.yaml", "--port", str(ports["gateway"]))
    return Part("gateway", BIN / "podpair-gateway", *serve, env=env)


async def start(options: argparse.Namespace, stack: AsyncExitStack) -> None:
    """Start all of it, in the order in which one needs the other."""
    began = time.monotonic()
    ports = {name: free(0, "rag") for name in ("gateway", "inference", "operations")}
    ports["page"] = free(options.port, "rag")
    secret = secrets.token_urlsafe(32)
    database = options.database
    if not database:
        postgres = Part(
            "PostgreSQL", options.environment / "bin/python", HERE / "database.py", options.data / "postgres"
        )
        await stack.enter_async_context(running(postgres, "ready"))
        database = str(postgres.told["ready"]["url"])
    models = inference(options, ports["inference"], database)
    front = gateway(options, ports, secret)
    await stack.enter_async_context(running(models, "ready"))
    await stack.enter_async_context(running(front, "ready", "inference at"))
    embedded = next((told for message, told in front.told.items() if message.startswith("embedded Kafka")), {})
    kafka = options.kafka or str(embedded["kafka"])
    address = options.data / "kafka"
    address.write_text(kafka)
    stack.callback(address.unlink, missing_ok=True)
    page = Page(f"http://127.0.0.1:{ports['gateway']}", secret)
    await stack.enter_async_context(served(page, ports["page"]))
    files = options.files or sorted((ROOT / "docs").glob("*.md"))
    print(f"podpair rag: {len(files)} documents through Kafka at {kafka}", flush=True)
    if await ingest(kafka, files):
        print("podpair rag: some documents are missing, see above", file=sys.stderr, flush=True)
    print(
        f"podpair rag: ready at http://127.0.0.1:{ports['page']} in {time.monotonic() - began:.1f} s\n"
        f"  open   http://127.0.0.1:{ports['page']}/     ask podpair about itself\n"
        f"  add    make rag-ingest FILES='README.md CHANGELOG.md'\n"
        f"  look   http://127.0.0.1:{ports['operations']}/readyz and /metrics: the operators' port\n"
        f"  stop   Ctrl-C",
        flush=True,
    )


async def run(options: argparse.Namespace) -> int:
    """Start all of it, and end it when a signal comes."""
    stop = ended_by_signals()
    options.data.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        starting = asyncio.ensure_future(start(options, stack))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        elif (error := starting.exception()) is not None:
            if not isinstance(error, RuntimeError):
                raise error
            print(f"podpair rag: {error}", file=sys.stderr)
            return 1
        await stopped
    print("podpair rag: stopped")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*", help="Markdown to ingest; default: podpair's own docs")
    parser.add_argument("--port", type=int, default=8080, help="the page's port; 0 takes a free one")
    parser.add_argument("--kafka", help="host:port of a real broker; without it one is embedded")
    parser.add_argument("--database", help="postgresql://… with pgvector; without it one is started")
    parser.add_argument("--data", type=Path, default=ROOT / "var/rag", help="where that one has its data")
    parser.add_argument("--environment", type=Path, required=True, help="where requirements.lock is installed")
    sys.exit(asyncio.run(run(parser.parse_args())))
