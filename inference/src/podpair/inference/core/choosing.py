"""Which version of a model answers a request that names none.

Versions have weights. Requests without a key are dealt out in turn (smooth weighted round robin: of any 100 requests at
90/10 exactly 10 go to the lesser version, and never two in a row). Requests with a key always go to the same version:
weighted rendezvous hashing, where a change of weights moves only as many keys as it must, in every process alike.

Sources: nginx's smooth weighted round robin; Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005).
"""

import hashlib
import math
from collections.abc import Mapping


class VersionChoice:
    """weights: version → share, of which only the proportions count; at least one is above 0."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = {version: weight for version, weight in weights.items() if weight > 0}
        self._total = sum(self.weights.values())
        self._current = dict.fromkeys(self.weights, 0.0)
        self._only = next(iter(self.weights)) if len(self.weights) == 1 else None

    @property
    def default(self) -> str:
        """The version that describes the model: the heaviest, of equals the last."""
        return max(self.weights, key=lambda version: (self.weights[version], int(version)))

    def choose(self, key: str | None = None) -> str:
        """The version for the next request, or for a key."""
        if self._only is not None:
            return self._only
        return self._next() if key is None else self._sticky(key)

    def _next(self) -> str:
        current = self._current
        for version, weight in self.weights.items():
            current[version] += weight
        chosen = max(current, key=current.__getitem__)
        current[chosen] -= self._total
        return chosen

    def _sticky(self, key: str) -> str:
        return max(self.weights, key=lambda version: self.weights[version] / -math.log(_unit(version, key)))


def _unit(version: str, key: str) -> float:
    """A hash in (0, 1)."""
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8, person=version.encode()[:16]).digest()
    return (int.from_bytes(digest, "big") + 1) / (2**64 + 2)
