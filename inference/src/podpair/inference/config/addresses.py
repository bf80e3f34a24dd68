"""Unix sockets as addresses."""

import errno
import socket
from pathlib import Path


def refuse_taken(path: Path) -> None:
    """Raise OSError if something listens at a socket; a file left by a dead process does not count."""
    if not path.is_socket():
        if path.exists():
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket", str(path))
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError(errno.EADDRINUSE, "something listens there", str(path))
