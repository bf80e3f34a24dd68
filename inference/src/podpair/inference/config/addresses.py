"""Unix sockets as addresses."""

import errno
import socket
from pathlib import Path


def refuse_taken(path: Path) -> None:
    """Raise OSError where something listens at a socket: a file that is left of a dead process is no reason."""
    if not path.is_socket():
        if path.exists():
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket", str(path))
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError(errno.EADDRINUSE, "something listens there", str(path))
