"""Processes in namespaces of their own: whatever they start and mount ends with one process, even where the tests are killed."""

import os
import signal
import subprocess
from pathlib import Path

from harness.machine import require, require_root
from harness.processes import Child
from harness.waiting import until


class Namespaces:
    """A PID and a mount namespace, and a network namespace where `network` is set; `prepare` is run in them first.

    Their first process waits for the end of its input, which is ours: when it goes, for whatever reason, the kernel kills
    all that was started in them, and what was mounted is gone.
    """

    def __init__(self, prepare: str = "", *, network: bool) -> None:
        require_root()
        unshare, nsenter = require("unshare", "nsenter")
        first = f"set -e; mount --make-rshared /; {prepare or ':'}; echo prepared; cat >/dev/null"
        apart = ["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
        self._holder = subprocess.Popen(
            [unshare, *(["--net"] if network else []), *apart, "sh", "-c", first],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"prepared\n":
            raise RuntimeError(f"namespaces: {self._holder.stderr.read().decode()}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text()
        #: The first process in the namespaces.
        self.pid = int(children)
        self._enter = (nsenter, "--target", str(self.pid), "--mount", "--pid", *(("--net",) if network else ()), "--")
        #: What a command begins with that joins the network and nothing else; it stays a child of ours.
        self.network = (nsenter, f"--net=/proc/{self.pid}/ns/net", "--") if network else ()
        self._children: list[Child] = []

    def start(self, *command: str | Path, env: dict[str, str] | None = None) -> Child:
        """A process inside, that ends with all the others."""
        # Standard output goes where the harness reads.
        child = Child(*self._enter, "sh", "-c", 'exec "$@" >&2', "sh", *command, env=env)
        self._children.append(child)
        return child

    def run(self, *command: str | Path, env: dict[str, str] | None = None) -> str:
        """What a command inside prints. Raises RuntimeError with what it complained of."""
        done = subprocess.run(
            [*self._enter, *map(str, command)],
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
        return done.stdout

    def close(self) -> None:
        """Kill all that is inside."""
        for stream in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            assert stream is not None
            stream.close()
        self._holder.send_signal(signal.SIGKILL)  # unshare takes the first process with it
        self._holder.wait()
        until(lambda: not Path(f"/proc/{self.pid}").exists())
        for child in self._children:
            child.kill()
