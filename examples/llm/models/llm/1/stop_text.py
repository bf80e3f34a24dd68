"""Text that comes in pieces, up to a stop sequence: no part of one is given out before it is known not to be one."""

import codecs


class StopText:
    """Turns a model's bytes into text. `stopped`: a stop sequence has come, and what follows is no part of the answer."""

    def __init__(self, stop: list[str]) -> None:
        self._stop = [each for each in stop if each]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def add(self, piece: bytes, *, last: bool = False) -> str:
        """Return the text that is certain now. A character whose bytes aren't all there waits, unless this is the last piece."""
        self._held += self._decoder.decode(piece, last)
        found = [at for each in self._stop if (at := self._held.find(each)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        keep = 0 if last else max((self._overlap(each) for each in self._stop), default=0)
        at = len(self._held) - keep
        certain, self._held = self._held[:at], self._held[at:]
        return certain

    def _overlap(self, stop: str) -> int:
        """Return how many characters at the end of what is held may be the beginning of this stop sequence."""
        most = min(len(stop) - 1, len(self._held))
        return next((size for size in range(most, 0, -1) if stop.startswith(self._held[-size:])), 0)
