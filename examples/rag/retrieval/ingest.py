"""A document to passages with vectors in the store: the same document again changes nothing, another one replaces the old."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from retrieval.chunks import Chunk, chunks_of, sentences_of
from retrieval.embedder import Embedder, Vectors
from retrieval.store import DIMENSIONS, NewPassage, StaleError, Store

# Passages that are embedded between two reports of progress.
_AT_ONCE = 8
# Two versions of one document that come at once may each find the other's passages gone; a third time would be a fault.
_TRIES = 5

Outcome = Literal["embedding", "unchanged", "stored", "superseded", "removed"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a document is. passages: of the document; embedded: those of them that are new and embedded."""

    outcome: Outcome
    passages: int = 0
    embedded: int = 0


class Ingester:
    """Chunks, embeds and stores documents."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder
        # Documents take turns, so that one run of the embedding model is left for questions.
        self._turn = asyncio.Semaphore(1)

    async def ingest(self, source: str, text: str, version: int) -> AsyncIterator[Progress]:
        """Yield progress, the last one is how it ended. A document without a word is removed. Raises UnavailableError."""
        chunks = chunks_of(text)
        digest = hashlib.sha256(b"".join(chunk.digest for chunk in chunks)).digest()
        if await self._store.unchanged(source, version, digest):
            yield Progress("unchanged", len(chunks))
            return
        embedded: dict[bytes, NewPassage] = {}
        for _ in range(_TRIES):
            known = await self._store.known(source) - embedded.keys()
            new = [chunk for chunk in chunks if chunk.digest not in known and chunk.digest not in embedded]
            for start in range(0, len(new), _AT_ONCE):
                part = new[start : start + _AT_ONCE]
                embedded |= {passage.chunk.digest: passage for passage in await self._passages(part)}
                yield Progress("embedding", len(chunks), len(embedded))
            passages: list[NewPassage | Chunk] = [embedded.get(chunk.digest, chunk) for chunk in chunks]
            try:
                stored = await self._store.replace(source, version, digest, passages)
            except StaleError:
                continue
            ended: Outcome = "superseded" if not stored else "stored" if chunks else "removed"
            yield Progress(ended, len(chunks), len(embedded))
            return
        raise RuntimeError(f"{source} changed {_TRIES} times while it was stored")

    async def _passages(self, chunks: Sequence[Chunk]) -> list[NewPassage]:
        sentences = [sentences_of(chunk.text) for chunk in chunks]
        texts = [chunk.embedded for chunk in chunks] + [one for found in sentences for one in found]
        async with self._turn:
            vectors = _checked(await self._embedder.embed(texts))
        passages, at = [], len(chunks)
        for chunk, vector, found in zip(chunks, vectors, sentences, strict=False):
            passages.append(NewPassage(chunk, vector, found, vectors[at : at + len(found)]))
            at += len(found)
        return passages


def _checked(vectors: Vectors) -> Vectors:
    """Refuse what a cosine index never finds again."""
    norms = np.linalg.norm(vectors, axis=1)
    if vectors.shape[1] != DIMENSIONS or not np.all(np.abs(norms - 1) < 1e-3):
        raise RuntimeError(
            f"the embedding model answered vectors {vectors.shape}, of lengths {norms.min()} to {norms.max()}"
        )
    return vectors
