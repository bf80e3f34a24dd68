"""Calls the embedding model beside this one, and so shares its batches with whoever else calls it."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from podpair.inference import models
from retrieval.pieces import tokenizer

_LONGEST = 256  # word pieces that the model was made for
# Lengths are padded up to a multiple of this: requests of one length share a run.
_STEP = 16
# Word pieces of one call, padding included: a question that comes while documents are embedded waits for one run at most.
_PIECES = 256

Vectors = NDArray[np.float32]


class Embedder:
    """Texts to unit vectors."""

    def __init__(self) -> None:
        self._tokenizer = tokenizer()
        self._tokenizer.enable_truncation(_LONGEST)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return a row for each text. Raises OverloadedError or UnavailableError if the model can't answer now."""
        pieces = [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]
        vectors: list[Vectors | None] = [None] * len(pieces)
        for part in _calls(pieces):
            ids = np.zeros((len(part), _padded(max(len(pieces[i]) for i in part))), np.int64)
            for row, i in zip(ids, part, strict=True):
                row[: len(pieces[i])] = pieces[i]
            answer = await models.infer_async("embedding", {"input_ids": ids})
            for i, vector in zip(part, answer["sentence_embedding"], strict=True):
                vectors[i] = vector
        return np.array(vectors, np.float32)


def _padded(length: int) -> int:
    return -(-length // _STEP) * _STEP


def _calls(pieces: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the texts of each call, by their numbers: those of about the same length together, so that little is padding."""
    call: list[int] = []
    for i in sorted(range(len(pieces)), key=lambda i: len(pieces[i])):
        if call and (len(call) + 1) * _padded(len(pieces[i])) > _PIECES:
            yield call
            call = []
        call.append(i)
    if call:
        yield call
