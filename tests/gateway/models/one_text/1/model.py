"""A model whose rows are lists of one text, `[-1, 1]`, as exporters of pipelines write them."""

from typing import Any


class OneText:
    """Each row's text in capitals."""

    def load(self) -> None:
        pass

    def predict(self, batch: Any) -> list[list[str]]:
        return [[str(row[0]).upper()] for row in batch]
