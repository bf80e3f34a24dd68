"""A model that takes its time, for tests that need work to pile up: 20 requests a second."""

import time
from typing import Any


class Slow:
    """Says nothing, slowly."""

    def predict(self, batch: list[Any]) -> list[str]:
        time.sleep(0.05 * len(batch))
        return ["" for _ in batch]
