"""How much of what was written to a socket the machine at the other end has not acknowledged yet."""

import asyncio
import sys

if sys.platform == "linux":
    import fcntl
    import termios


def is_acknowledged(transport: asyncio.WriteTransport) -> bool:
    """Return whether all of it is; where the system doesn't tell, whether it has left this process."""
    if transport.is_closing() or transport.get_write_buffer_size():
        return False
    if sys.platform != "linux":
        return True
    try:
        left = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, AttributeError, ValueError):  # it is closed
        return False
    return not any(left)
