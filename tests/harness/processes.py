"""Processes that tests start. One that stays is a `Child`, whose log is watched: a test waits for what it says, never for a time
to pass. With a `Conversation` it speaks over standard input and output; `completed` and `output_of` are for commands that end by
themselves.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until something that has to come is given up


class Died(Exception):
    """The process ended before it said what it was waited for."""


class Child:
    """A process of ours. Its standard error is read line by line; JSON lines become records."""

    def __init__(self, *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env=_environment(env),
            cwd=cwd or ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> list[dict[str, Any]]:
        """The JSON records logged so far."""
        with self._news:
            return [json.loads(line) for line in self.lines if line.startswith("{")]

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, wanted: Callable[[str], bool], timeout: float = PATIENCE) -> str:
        """The first line, from the beginning, that is wanted. Raises Died or TimeoutError, with the log."""
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if wanted(line):
                        return line
                seen = len(self.lines)
                if self._ended:
                    raise Died("\n".join(self.lines[-30:]))
                if not self._news.wait(timeout):
                    raise TimeoutError("\n".join(self.lines[-30:]))

    def wait_for_message(self, message: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The first JSON log record whose message begins so."""

        def wanted(line: str) -> bool:
            return line.startswith("{") and json.loads(line).get("message", "").startswith(message)

        found: dict[str, Any] = json.loads(self.wait_for(wanted, timeout))
        return found

    def kill(self) -> None:
        """SIGKILL, as a node that dies."""
        self.process.kill()
        self._finish()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._finish()
        return self.process.returncode

    def _finish(self) -> None:
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)


class Conversation:
    """A process that is spoken with: a line of JSON at its standard output for each one at its standard input."""

    def __init__(self, *command: str | Path, env: Mapping[str, str] | None = None, quiet: bool = False) -> None:
        """`quiet`: what it says at standard error is nobody's business."""
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env=_environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
        )

    def read(self) -> Any:
        """The next line. Raises Died if there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Died("it has ended: standard error says why")
        return json.loads(line)

    def ask(self, message: Any) -> Any:
        """Say a line, and return the one that answers it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Close its standard input, after which it ends by itself; wait for that."""
        self.process.communicate()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()


def completed(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 240,
) -> "subprocess.CompletedProcess[str]":
    """A command that has ended. env: on top of ours, of which no setting of podpair's is taken."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=_environment(env), input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def output_of(*command: str | Path, **how: Any) -> str:
    """What a command prints that has to succeed; `how` is as for `completed`. Raises AssertionError with what it complains of."""
    done = completed(*command, **how)
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-3000:]}{done.stdout[-1000:]}"
    return done.stdout


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PODPAIR_")} | dict(more or {})


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_address() -> str:
    """An address of this machine that isn't loopback. Nothing is sent to find it."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a datagram socket only chooses a route
        return str(probe.getsockname()[0])
