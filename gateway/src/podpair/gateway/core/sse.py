"""Reading server-sent events (WHATWG HTML, 9.2.6), as far as a model's answer needs: the data of each event."""


class Events:
    """Takes a stream in pieces of any size."""

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that the chunk completes."""
        text = self._rest + chunk
        # A CR at the end may be half of a line end.
        keep = b"\r" if text.endswith(b"\r") else b""
        lines = (text[: len(text) - len(keep)]).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + keep
        events = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return events
