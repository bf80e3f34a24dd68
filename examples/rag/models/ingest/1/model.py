"""Documents, chunked, embedded and stored; the chunks of the answer, lines of JSON, say how far it is."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from retrieval.embedder import Embedder
from retrieval.ingest import Ingester
from retrieval.store import Store

from podpair.inference import InvalidRequestError


class Ingest:
    """While the database is away this isn't ready, so that a queued document waits until it is back (rag.yaml)."""

    async def load(self) -> None:
        self._store = Store()
        self._ingester = Ingester(self._store, Embedder())

    async def ready(self) -> None:
        await self._store.ping()

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[str]:
        source, text, version = request["source"], request["text"], int(request["version"])
        if not source or len(source) > 500 or "\0" in source + text:
            raise InvalidRequestError("source has 1 to 500 characters, and neither it nor text may have a NUL")
        async for progress in self._ingester.ingest(source, text, version):
            yield json.dumps({"source": source, **asdict(progress)}) + "\n"
