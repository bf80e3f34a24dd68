"""What was served, counted by where models come from: the table that `make test-models` prints."""

from collections import Counter
from collections.abc import Mapping


class Tally:
    """Counts of models."""

    def __init__(self) -> None:
        self._models: Counter[str] = Counter()
        self._loaded: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    def saw(self, source: str, *, loads: bool, served: bool) -> None:
        """A model: whether ONNX Runtime loads it, and whether the server serves it."""
        self._models[source] += 1
        self._loaded[source] += loads
        self._served[source] += served

    def refused(self, by_reason: Mapping[str, int]) -> None:
        """How many of those that ONNX Runtime loads aren't served, for which reason."""
        self._refused.update(by_reason)

    def asked(self, what: str, requests: int) -> None:
        """So many requests of clients at the same time, all answered as alone."""
        self._asked[what] += requests

    def lines(self) -> list[str]:
        """As Markdown."""
        found = []
        if self._models:
            found += ["| models | | ONNX Runtime loads | served |", "| --- | --- | --- | --- |"]
            found += [
                f"| {source} | {count} | {self._loaded[source]} | {self._served[source]} |"
                for source, count in self._models.items()
            ]
        if self._refused:
            found += ["", "| refused | models |", "| --- | --- |"]
            found += [f"| {why} | {count} |" for why, count in self._refused.items()]
        if self._asked:
            found += ["", "| asked by many at once | requests | wrong |", "| --- | --- | --- |"]
            found += [f"| {what} | {count:,} | 0 |" for what, count in self._asked.items()]
        return found
