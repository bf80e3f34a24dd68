"""A server's stream of completion chunks, as it is passed on: only whole events, and whether the stream has come to its end.

Invariant: a client never gets half of an event, and a stream that was cut never ends as if it were whole.
"""

from typing import Any

import msgspec

from podpair.gateway.core.model_errors import TooLarge

_LARGEST = 1 << 26  # bytes of one event


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk)


class ChunkStream:
    """Takes the stream in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self.complete = False
        """Whether a choice has ended, or the server has said [DONE], or why it fails."""

    def feed(self, piece: bytes) -> bytes:
        """Return the events that the piece completes, as they came. Raises TooLarge."""
        held = self._rest + piece
        if held.find(b"\r") >= 0:
            # Half of a line end stays for the next piece.
            tail = b"\r" if held.endswith(b"\r") else b""
            held = held[: len(held) - len(tail)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + tail
        end = held.rfind(b"\n\n") + 2
        if end < 2:
            end = 0
        self._rest = held[end:]
        if len(self._rest) > _LARGEST:
            raise TooLarge(_LARGEST)
        whole = held[:end]
        if not self.complete:
            self._look(whole)
        return whole

    def _look(self, events: bytes) -> None:
        for line in events.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                self.complete = True
                continue
            try:
                chunk = _chunk.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # what a client makes of it is between it and the server
            ended = any(choice.finish_reason is not None for choice in chunk.choices or ())
            self.complete = self.complete or ended or chunk.error is not None
