"""A question to passages and an answer of their sentences. Nothing is generated: each sentence stands in its passage."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass

from retrieval.embedder import Embedder
from retrieval.ranking import best, fuse
from retrieval.store import Passage, Sentence, Store

# Candidates of each search.
_CANDIDATES = 30
# Sentences of an answer, and how similar to the question each has to be (cosine).
_SENTENCES, _SIMILAR = 4, 0.3
EMPTY = "There are no documents yet."
NOTHING = "No sentence of the documents answers that; the passages are the nearest that there are."


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage with the number by which the answer cites it, from 1."""

    number: int
    source: str
    heading: str
    anchor: str
    content: str

    def document(self) -> dict[str, str | int]:
        """Return it as JSON has it."""
        return asdict(self)


class Answerer:
    """Searches, ranks, and picks sentences."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder

    async def answer(self, question: str, count: int) -> AsyncIterator[list[Citation] | str]:
        """Yield `count` passages at most, the best first, then the answer: sentences, each with its citation.

        Raises UnavailableError.
        """
        (vector,), matching = await asyncio.gather(
            self._embedder.embed([question]), self._store.matching(question, _CANDIDATES)
        )
        nearest = await self._store.nearest(vector, _CANDIDATES)
        passages = best(fuse(nearest, matching), count)
        numbers = {passage.id: number for number, passage in enumerate(passages, 1)}
        yield [
            Citation(number, passage.source, passage.heading, passage.anchor, passage.content)
            for number, passage in enumerate(passages, 1)
        ]
        if not passages:
            yield EMPTY
            return
        nearest_sentences = await self._store.sentences(vector, list(numbers), _SENTENCES)
        found = [sentence for sentence in nearest_sentences if sentence.similarity >= _SIMILAR]
        cited = [f"{one.content} [{numbers[one.passage]}]" for one in in_order(found, passages)]
        yield " ".join(cited) or NOTHING


def in_order(sentences: Sequence[Sentence], passages: Sequence[Passage]) -> list[Sentence]:
    """Return the sentences by the rank of their passages; those of one passage stay as they are."""
    rank = {passage.id: number for number, passage in enumerate(passages)}
    return sorted(sentences, key=lambda sentence: rank[sentence.passage])
