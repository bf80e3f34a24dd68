"""Ranks what the vector search and the full-text search found, by reciprocal rank fusion (Cormack et al., SIGIR 2009)."""

from collections import Counter
from collections.abc import Iterable, Sequence

from retrieval.store import Passage

_K = 60  # the paper's constant
# Passages of one section among those that are shown: the next section may know more.
_OF_ONE_SECTION = 2


def fuse(*rankings: Sequence[Passage], weights: Sequence[float] = ()) -> list[Passage]:
    """Return all passages, the best first: each counts as 1 / (60 + its rank) in every ranking that has it."""
    scores: Counter[int] = Counter()
    found: dict[int, Passage] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, passage in enumerate(ranking, 1):
            scores[passage.id] += weight / (_K + rank)  # type: ignore[assignment]
            found.setdefault(passage.id, passage)
    return [found[identity] for identity, _ in scores.most_common()]


def best(passages: Iterable[Passage], count: int) -> list[Passage]:
    """Return the first passages, few of each section."""
    taken: list[Passage] = []
    sections: Counter[tuple[str, str]] = Counter()
    for passage in passages:
        section = (passage.source, passage.heading)
        if sections[section] < _OF_ONE_SECTION:
            sections[section] += 1
            taken.append(passage)
        if len(taken) == count:
            break
    return taken
