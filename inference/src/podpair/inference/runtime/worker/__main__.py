"""A worker process: `python -m podpair.inference.runtime.worker`, started by the server alone, which hands it its connections.

It isn't forked: nothing of the server's threads, locks, sockets or CUDA contexts is in it. It ends with the server, also if
that is killed: its connection ends then, and on Linux the kernel ends it (PR_SET_PDEATHSIG). The signals by which a terminal,
`docker stop` or systemd ends a whole group are the server's affair, which ends its workers once all is answered.
"""

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys

from podpair.inference.runtime.worker.options import Options


def main() -> None:
    """Serve until the server has gone."""
    options = Options(**json.loads(sys.argv[1]))
    _end_with(options.server)
    # Not ignored: what a model executes would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_to_server)
    faulthandler.enable(options.tracebacks)
    for file in (options.control, *options.calls, options.models, options.tracebacks):
        os.set_inheritable(file, False)
    # What a model prints is written even if its process is killed.
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if options.log is not None:
        from podpair.inference import logs

        logs.set_up(*options.log)

    from podpair.inference.models import connect
    from podpair.inference.runtime.fork_guard import guard_forks
    from podpair.inference.runtime.worker.channel import Channel
    from podpair.inference.runtime.worker.model_client import WorkerModelClient
    from podpair.inference.runtime.worker.server import serve

    guard_forks(lambda: (options.control, *options.calls, options.models))
    control, *calls = [Channel(socket.socket(fileno=file)) for file in (options.control, *options.calls)]
    connect(WorkerModelClient(Channel(socket.socket(fileno=options.models))))
    serve(control, calls)


def _end_with(server: int) -> None:
    """Have the kernel end this process with the thread that started it, if it can."""
    if sys.platform == "linux":
        with contextlib.suppress(Exception):
            import ctypes

            # PR_SET_PDEATHSIG, see prctl(2).
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _leave_to_server(*_: object) -> None:
    pass


if __name__ == "__main__":
    main()
