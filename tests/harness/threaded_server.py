"""An HTTP server that belongs to a test, on a thread of its own: it answers while the test waits for something else."""

import asyncio
import threading

from aiohttp import web


class ThreadedServer:
    """Serves on 127.0.0.1 at `url` from its making until `close`. A subclass makes its members first, then calls `__init__`."""

    url: str
    handler_cancellation = True  # whether a handler is cancelled when its client hangs up

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add what the server answers to."""
        raise NotImplementedError

    def close(self) -> None:
        """End it, and its thread: calls that are under way are cut."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _start(self) -> web.AppRunner:
        app = web.Application(client_max_size=1 << 30)
        self.add_routes(app.router)
        cancels = self.handler_cancellation
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=cancels)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        return runner
