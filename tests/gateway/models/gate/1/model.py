"""A model that tells in files what it has begun, and answers when the test lets it."""

import time
from pathlib import Path


class Gate:
    """`path` in: `path.began` is made, and `path` is the answer once `path.open` is there."""

    def load(self) -> None:
        pass

    def predict(self, batch: list[str]) -> list[str]:
        named = [request for request in batch if request != "0"]  # which is what it is warmed up with
        for request in named:
            Path(request + ".began").touch()
        for request in named:
            while not Path(request + ".open").exists():
                time.sleep(0.01)
        return batch
