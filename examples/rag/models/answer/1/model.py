"""Questions, answered in sentences of the documents with citations: passages come first, then the answer."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from retrieval.answer import Answerer
from retrieval.embedder import Embedder
from retrieval.store import Store

from podpair.inference import InvalidRequestError, UnavailableError

_LONGEST = 2000  # characters of a question
_PASSAGES = 5


class Answer:
    """A chunk has two texts, `passages` (lines of JSON) and `answer`; so all of them joined, in any number, stay readable."""

    async def load(self) -> None:
        self._answerer = Answerer(Store(), Embedder())

    async def stream(self, request: str, parameters: Mapping[str, Any]) -> AsyncIterator[dict[str, str]]:
        question = request.strip()
        if not question or len(question) > _LONGEST:
            raise InvalidRequestError(f"a question has 1 to {_LONGEST} characters, this one {len(question)}")
        count = parameters.get("passages", _PASSAGES)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 20:
            raise InvalidRequestError(f"parameters.passages is a number from 1 to 20, not {count!r}")
        try:
            async for found in self._answerer.answer(question, count):
                if isinstance(found, str):
                    yield {"passages": "", "answer": found}
                else:
                    yield {"passages": "".join(f"{json.dumps(one.document())}\n" for one in found), "answer": ""}
        except UnavailableError as error:
            # A person waits: that fails now, and says why, where 503 would have the gateway try again for a while.
            raise RuntimeError(str(error)) from None
