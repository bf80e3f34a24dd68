"""One end of a connection between the server and a worker process: whole messages over a Unix stream socket, blocking."""

import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from podpair.inference.core.tensors import Array
from podpair.inference.core.worker_messages import PREFIX, Message, decode, encode, lengths

# The size of a read: most messages are smaller.
_CHUNK = 65536


class Channel:
    """Sends and receives messages; one thread may send while another receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # What was received of the next message.
        self._rest = b""

    @property
    def file(self) -> int:
        """The file descriptor."""
        return self._socket.fileno()

    def send(self, message: Message, arrays: Sequence[Array] = ()) -> None:
        """Send a message with its tensors. Raises OSError, BrokenPipeError if the other side is gone."""
        buffers = encode(message, arrays)
        left = sum([memoryview(buffer).nbytes for buffer in buffers])
        while True:
            sent = self._socket.sendmsg(buffers)
            left -= sent
            if not left:
                return
            buffers = _behind(buffers, sent)

    def set_timeout(self, seconds: float | None) -> None:
        """Limit how long `receive` waits from now on; None: no limit."""
        whole, part = divmod(seconds or 0.0, 1)
        # The kernel's own, for which no call more is needed, as for Python's. None at all is no time-out to it.
        value = struct.pack("@ll", int(whole), max(int(part * 1e6), 1 if seconds else 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def receive(self) -> tuple[Any, list[Array]]:
        """Return the next message and its tensors, which are the caller's to keep and to write to.

        Raises TimeoutError, EOFError if the other side has ended, OSError, or MessageError.
        """
        try:
            return self._receive()
        except BlockingIOError:
            raise TimeoutError from None

    def shut(self) -> None:
        """Shut the connection down, which wakes those who wait at either end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, which must not be in use any more."""
        self._socket.close()

    def _receive(self) -> tuple[Any, list[Array]]:
        data = self._at_least(bytearray(self._rest), PREFIX.size)
        head, body = lengths(data[: PREFIX.size])
        data = self._at_least(data, PREFIX.size + head)
        end = PREFIX.size + head + body
        raw = np.empty(body, np.uint8)
        there = np.frombuffer(data, np.uint8)[PREFIX.size + head : end]
        raw[: len(there)] = there
        self._rest = bytes(memoryview(data)[end:])
        room = memoryview(raw)[len(there) :]  # type: ignore[arg-type]
        while room:
            count = self._socket.recv_into(room, 0, socket.MSG_WAITALL)
            if not count:
                raise EOFError
            room = room[count:]
        return decode(bytes(memoryview(data)[PREFIX.size : PREFIX.size + head]), raw)

    def _at_least(self, data: bytearray, count: int) -> bytearray:
        while len(data) < count:
            received = self._socket.recv(_CHUNK)
            if not received:
                raise EOFError
            data += received
        return data


def _behind(buffers: Sequence[Any], sent: int) -> list[Any]:
    """Return the buffers without the first `sent` bytes."""
    left = []
    for buffer in buffers:
        view = memoryview(buffer)
        if sent >= view.nbytes:
            sent -= view.nbytes
        else:
            left.append(view[sent:])
            sent = 0
    return left
