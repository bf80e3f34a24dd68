"""Reading server-sent events (WHATWG HTML, 9.2.6), as far as a model's answer needs: the data of each event."""


class EventTooLarge(Exception):
    """An event, or a line, is larger than is taken."""


class EventParser:
    """Takes a stream in pieces of any size; an event and a line have at most `limit` bytes."""

    __slots__ = ("_data", "_limit", "_rest", "_size", "_waiting")

    def __init__(self, limit: int = 1 << 26) -> None:
        self._limit = limit
        self._rest: list[bytes] = []  # pieces of a line that has no end yet
        self._waiting = 0  # bytes of them
        self._data: list[bytes] = []
        self._size = 0  # bytes of the event's data so far

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that the chunk completes. Raises EventTooLarge."""
        if not self._ends(chunk):
            self._wait(chunk)
            return []
        text = b"".join((*self._rest, chunk))
        self._rest.clear()
        self._waiting = 0
        # A CR at the end may be half of a line end.
        keep = b"\r" if text.endswith(b"\r") else b""
        lines = (text[: len(text) - len(keep)]).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._wait(lines.pop() + keep)
        events = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
                    self._size = 0
            elif line.startswith(b"data:"):
                self._size += len(line)
                if self._size > self._limit:
                    raise EventTooLarge
                self._data.append(line[5:].removeprefix(b" "))
        return events

    def _ends(self, chunk: bytes) -> bool:
        """Return whether a line may end in the chunk."""
        return b"\n" in chunk or b"\r" in chunk or bool(self._rest and self._rest[-1].endswith(b"\r"))

    def _wait(self, piece: bytes) -> None:
        if piece:
            self._rest.append(piece)
            self._waiting += len(piece)
            if self._waiting > self._limit:
                raise EventTooLarge
