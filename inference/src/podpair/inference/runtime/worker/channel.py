"""One end of a connection between the server and a worker process: whole messages over a Unix stream socket, blocking."""

import contextlib
import select
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np

from podpair.inference.core.tensors import Array
from podpair.inference.core.worker_messages import PREFIX, Message, decode, encode, lengths

# What is asked for at once: most messages are smaller.
_CHUNK = 65536


class Channel:
    """Sends and receives messages; one thread may do the one while another does the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # What was received of the next message.
        self._rest = b""

    @property
    def file(self) -> int:
        """The file descriptor."""
        return self._socket.fileno()

    def send(self, message: Message, arrays: Sequence[Array] = ()) -> None:
        """Send a message with its tensors. Raises OSError, BrokenPipeError where the other side is gone."""
        buffers = encode(message, arrays)
        left = sum([memoryview(buffer).nbytes for buffer in buffers])
        while True:
            sent = self._socket.sendmsg(buffers)
            left -= sent
            if not left:
                return
            buffers = _behind(buffers, sent)

    def receive(self, timeout: float | None = None) -> tuple[Any, list[Array]]:
        """The next message and its tensors, which are the caller's to keep and to write to.

        timeout: how long the message may take to begin, in seconds. Raises TimeoutError, EOFError where the other side
        has ended, OSError, or MessageError.
        """
        if timeout is not None and not self._rest:
            self._wait(timeout)
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
            count = self._socket.recv_into(room)
            if not count:
                raise EOFError
            room = room[count:]
        return decode(bytes(memoryview(data)[PREFIX.size : PREFIX.size + head]), raw)

    def shut(self) -> None:
        """End the connection: who waits at either end learns of it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it; nobody may be at it any more."""
        self._socket.close()

    def _wait(self, timeout: float) -> None:
        # Not select(), which can't take descriptors above 1023.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise TimeoutError

    def _at_least(self, data: bytearray, count: int) -> bytearray:
        while len(data) < count:
            received = self._socket.recv(_CHUNK)
            if not received:
                raise EOFError
            data += received
        return data


def _behind(buffers: Sequence[Any], sent: int) -> list[Any]:
    """What is left of buffers of which so many bytes were sent."""
    left = []
    for buffer in buffers:
        view = memoryview(buffer)
        if sent >= view.nbytes:
            sent -= view.nbytes
        else:
            left.append(view[sent:])
            sent = 0
    return left
