"""A model of vectors: how long a text is, and a half."""


class Vectors:
    def load(self) -> None:
        pass

    def predict(self, batch: list[str]) -> list[list[float]]:
        return [[float(len(text)), 0.5] for text in batch]
