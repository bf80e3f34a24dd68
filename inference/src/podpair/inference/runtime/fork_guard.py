"""Keeps this server's signals and sockets from processes that a model forks.

Frameworks fork (torch's DataLoader, multiprocessing on Linux before Python 3.14). The child would have asyncio's handlers,
which write into a pipe that both share: its SIGTERM, by which a pool ends its workers, would stop this server and not the
child. And it would keep listening sockets and connections open: clients wouldn't see their end, a restarted server would find
its port taken.

Sources: Python's signal.set_wakeup_fd and os.register_at_fork.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

_Files = Callable[[], Iterable[int]]
# Those of the server in this process, if there is one.
_files: _Files | None = None
_registered = False


def guard_forks(files: _Files | None) -> None:
    """Give future children of this process signals of their own and none of these files; None: undo that."""
    global _files, _registered
    _files = files
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    global _files
    files, _files = _files, None
    if files is None:
        return
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file in files():
        with suppress(OSError):
            os.close(file)


def sockets_at(port: int) -> Iterable[int]:
    """Yield the file descriptors of this process's sockets at a port of its own, for a server that doesn't expose them."""
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                opened = socket.socket(fileno=int(name))
                try:
                    address = opened.getsockname()
                finally:
                    opened.detach()
                if isinstance(address, tuple) and address[1:2] == (port,):
                    yield int(name)
