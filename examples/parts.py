"""What the examples that start a whole pair on this machine have in common: processes whose logs are read, and free ports."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

SHOWN = {"WARNING", "ERROR", "CRITICAL"}


class Part:
    """A process; its log is read for what is told about it."""

    def __init__(self, name: str, *command: str | Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self._command = [str(part) for part in command]
        self._env = os.environ | (env or {})
        self.process: asyncio.subprocess.Process | None = None
        self.told: dict[str, dict[str, Any]] = {}  # log records by message, the newest
        self._news = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None
        self.quiet = False  # what it complains of isn't shown any more: it is being stopped

    async def start(self) -> None:
        self.told.clear()
        self.process = await asyncio.create_subprocess_exec(
            *self._command, env=self._env, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C comes to the starter alone, which ends its parts in order
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self.process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101
        async for line in process.stderr:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                record = {"message": line.decode(errors="replace").rstrip(), "level": "ERROR"}
            if record.get("level") in SHOWN and not self.quiet:
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


def ended_by_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def at_kafka(address: str | None) -> dict[str, str]:
    """A gateway's environment for a real broker; None: for an embedded one."""
    return {"PODPAIR_KAFKA__BOOTSTRAP_SERVERS": address} if address else {"PODPAIR_KAFKA__EMBEDDED": "true"}


def free(port: int, make: str) -> int:
    """The port, or a free one where it is 0. Ends the program where it is taken; `make`: its target, for the message."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            sys.exit(f"podpair {make}: port {port} is taken; try: make {make} PORT={port + 10}")
        return int(probe.getsockname()[1])
