"""A worker process as the server sees it: started, watched, ended.

It is a fresh interpreter in a session of its own, so that what a terminal sends to the server's group doesn't reach it; nothing
of this process is forked. The thread that starts it waits for its end: on Linux the kernel ends a worker with the *thread* that
started it (PR_SET_PDEATHSIG). Whoever waits for an answer learns of its end through the connections, which are shut then.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import IO

from podpair.inference import logs
from podpair.inference.runtime.worker.channel import Channel
from podpair.inference.runtime.worker.options import Options

log = logging.getLogger(__name__)

# How long a worker may take to write its traceback, and to end when it is asked to, in seconds.
_ABORT_SECONDS = 2.0
_CLOSE_SECONDS = 4.0
# Bytes of a traceback that are logged.
_TRACEBACK = 16384


class WorkerProcess:
    """One process, with `calls` connections for runs. Raises OSError if it can't be started.

    on_end: called once it has ended, in its thread.
    """

    def __init__(self, name: str, calls: int, on_end: Callable[["WorkerProcess"], object]) -> None:
        self._name = name
        self._on_end = on_end
        # Why it ended, its traceback then, and the metric's label: exited, signal, timeout or closed.
        self.reason = "its process is there"
        self.traceback = ""
        self.how = ""
        # Set once it has ended.
        self.ended = threading.Event()
        self._end_reason = ""
        self._reaped = False
        self._lock = threading.Lock()
        self._started_at = time.monotonic()
        pairs = [socket.socketpair() for _ in range(calls + 2)]
        # Over which it calls other models; whoever serves them takes it.
        self.models = pairs[0][0]
        ours = [Channel(pair[0]) for pair in pairs[1:]]
        self.control, self.calls = ours[0], ours[1:]
        self._theirs = [pair[1] for pair in pairs]
        self._tracebacks = _file_for_tracebacks()
        self._begun = threading.Event()
        self._failure: OSError | None = None
        self._pid = 0
        threading.Thread(target=self._run, name=f"worker-{name}", daemon=True).start()
        self._begun.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid

    @property
    def up_seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started_at

    def abort(self, reason: str, how: str = "timeout") -> None:
        """Abort the process, for this reason; it writes its traceback first. Returns when it has ended."""
        with self._lock:
            first = not self._end_reason
            self._end_reason = self._end_reason or reason
            self.how = self.how or how
        if first and not self.ended.is_set():
            self._disable_core_dump()
            self._signal(signal.SIGABRT)
        if not self.ended.wait(_ABORT_SECONDS):
            self._signal(signal.SIGKILL)
            self.ended.wait(_ABORT_SECONDS)

    def close(self) -> None:
        """Let it end by itself, and kill it if it doesn't."""
        with self._lock:
            self._end_reason = self._end_reason or "it was closed"
            self.how = self.how or "closed"
        self._shut()
        if not self.ended.wait(_CLOSE_SECONDS):
            log.warning("a model's process doesn't end, and is killed", extra={"worker": self._name, "pid": self.pid})
            self._signal(signal.SIGKILL)
            self.ended.wait(_CLOSE_SECONDS)

    def _run(self) -> None:
        """Start the process, and wait for its end (in its thread)."""
        try:
            process = self._start()
            self._pid = process.pid
        except OSError as error:
            self._failure = error
            for channel in (self.control, *self.calls):
                channel.close()
            self.models.close()
            return
        finally:
            for connection in self._theirs:
                connection.close()
            self._begun.set()
        status = self._wait(process)
        self._set_reason(status)
        self.ended.set()
        self._shut()
        self._on_end(self)

    def _start(self) -> "subprocess.Popen[bytes]":
        files = [connection.fileno() for connection in self._theirs]
        options = Options(
            files[1], tuple(files[2:]), files[0], self._tracebacks.fileno(), os.getpid(), logs.as_set_up()
        )
        # -P: the folder in which the server was started is no place to import from, but by `--model`.
        command = [sys.executable, "-P", "-m", "podpair.inference.runtime.worker", json.dumps(asdict(options))]
        return subprocess.Popen(  # noqa: S603 - this interpreter
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(*files, options.tracebacks),
            start_new_session=True,
        )

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait for its status. What it has left in its session is killed while the id is still its own."""
        if not hasattr(os, "waitid"):
            return process.wait()
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._reaped = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if os.getpid() == 1:
            threading.Thread(target=_reap, args=(process.pid,), daemon=True).start()
        return status

    def _set_reason(self, status: int) -> None:
        with self._tracebacks as file:
            file.seek(0)
            self.traceback = file.read(_TRACEBACK).decode(errors="replace")
        with self._lock:
            if self._end_reason:
                self.reason = self._end_reason
            elif status < 0:
                self.how = "signal"
                self.reason = f"its process was ended by {_signal_name(-status)}"
            else:
                self.how = "exited"
                self.reason = f"its process exited with status {status}"

    def _disable_core_dump(self) -> None:
        """Disable the core dump that SIGABRT would leave."""
        with contextlib.suppress(Exception):
            import resource

            _, hard = resource.prlimit(self.pid, resource.RLIMIT_CORE)
            resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, hard))

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            # Once it was waited for its id may be another's.
            if not self._reaped:
                os.kill(self.pid, number)

    def _shut(self) -> None:
        for channel in (self.control, *self.calls):
            channel.shut()


def _reap(group: int) -> None:
    """Wait for orphaned processes, which the first process in a container inherits."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


def _file_for_tracebacks() -> IO[bytes]:
    """Create a file in memory if possible: a container may have no writable place."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tracebacks"), "w+b")
    return tempfile.TemporaryFile()


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name} (is memory short?)" if name == "SIGKILL" else name
