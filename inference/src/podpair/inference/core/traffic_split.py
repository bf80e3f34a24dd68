"""Which version of a model answers a request that names none.

Versions have weights. Requests without a key are dealt out in turn (smooth weighted round robin: of any 100 requests at
90/10 exactly 10 go to the lesser version, and never two in a row). Requests with a key always go to the same version:
weighted rendezvous hashing, where a change of weights moves only as many keys as it must, in every process alike.

Sources: nginx's smooth weighted round robin; Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005).
"""

import hashlib
import math
from collections.abc import Collection, Mapping

from podpair.inference.core.model_config import ModelConfig

# Model → version → weight, set from outside: it goes before what the models' own files say.
Weights = Mapping[str, Mapping[int, float]]


class TrafficSplit:
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
        """Return the version for the next request, or for a key."""
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
    """Hash a version and a key to a number in (0, 1)."""
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8, person=version.encode()[:16]).digest()
    return (int.from_bytes(digest, "big") + 1) / (2**64 + 2)


def version_weights(
    config: ModelConfig, versions: Collection[int], weights: Mapping[int, float] | None
) -> dict[str, float]:
    """Return the weight of each version: from outside if there are such, else from model.yaml, else the highest version alone.

    Raises ValueError if `weights` name a version that isn't there.
    """
    own = {share.version: share.weight for share in config.versions} or {max(versions): 1.0}
    unknown = sorted(set(weights or ()) - set(versions))
    if unknown:
        there = ", ".join(map(str, sorted(versions)))
        raise ValueError(f"there is no version {unknown[0]}; there are {there}")
    return {str(version): weight for version, weight in (weights or own).items()}


def weight_faults(weights: Weights, models: Mapping[str, Collection[int]], *, all_there: bool) -> list[str]:
    """Return what is wrong with weights for these models and their versions. all_there: no other model may come later."""
    faults = []
    for name, given in weights.items():
        versions = models.get(name)
        if versions is None:
            if all_there:
                faults.append(f"models.weights.{name}: there is no such model; there are {', '.join(sorted(models))}")
            continue
        try:
            version_weights(ModelConfig(), versions, given)
        except ValueError as error:
            faults.append(f"models.weights.{name}: {error}")
    return faults
