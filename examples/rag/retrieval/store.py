"""The documents in PostgreSQL: passages and their sentences with vectors (pgvector), and how often each has which lexeme.

Invariant: a document's passages are those of one version of it, the newest that came, however often and in whatever order its
versions come. A database that is away is an UnavailableError, and the next call tries it anew.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import numpy as np
from pgvector import HalfVector, Vector
from pgvector.asyncpg import register_vector

from podpair.inference import UnavailableError
from retrieval.chunks import Chunk
from retrieval.embedder import Vectors

DIMENSIONS = 384
_CONNECTIONS, _CONNECT_SECONDS = 8, 5.0
# Any number: two processes that begin together must not both create the schema.
_SCHEMA_LOCK = 7_265_619
_SCHEMA = f"""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS documents (
    source text PRIMARY KEY,
    version bigint NOT NULL,
    digest bytea NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS passages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL REFERENCES documents ON DELETE CASCADE,
    ordinal int NOT NULL,
    heading text NOT NULL,
    anchor text NOT NULL,
    content text NOT NULL,
    digest bytea NOT NULL,
    words int NOT NULL,
    embedding vector({DIMENSIONS}) NOT NULL,
    UNIQUE (source, digest)
);
CREATE TABLE IF NOT EXISTS terms (
    lexeme text NOT NULL,
    passage bigint NOT NULL REFERENCES passages ON DELETE CASCADE,
    frequency int NOT NULL,
    PRIMARY KEY (lexeme, passage)
);
CREATE INDEX IF NOT EXISTS terms_passage ON terms (passage);
CREATE TABLE IF NOT EXISTS sentences (
    passage bigint NOT NULL REFERENCES passages ON DELETE CASCADE,
    ordinal int NOT NULL,
    content text NOT NULL,
    embedding halfvec({DIMENSIONS}) NOT NULL,
    PRIMARY KEY (passage, ordinal)
);
CREATE INDEX IF NOT EXISTS passages_embedding ON passages USING hnsw (embedding vector_cosine_ops);
"""
# Without iterative_scan the index gives up after ef_search rows: rows that were deleted, and not vacuumed yet, hide others.
# A session forgets SET when it returns to the pool, but not what it was started with.
_SESSION = {"hnsw.iterative_scan": "relaxed_order", "hnsw.ef_search": "64", "application_name": "podpair-rag"}

_COLUMNS = "id, source, heading, anchor, content"
_NEAREST = f"SELECT {_COLUMNS} FROM passages ORDER BY embedding <=> $1 LIMIT $2"  # noqa: S608 - constants
# Okapi BM25 (k1 1.2, b 0.75) with PostgreSQL's stemming. Its own ts_rank knows nothing of how rare a word is.
MATCHING = f"""
WITH query AS (SELECT unnest(tsvector_to_array(to_tsvector('english', $1))) AS lexeme),
found AS (SELECT passage, frequency, count(*) OVER (PARTITION BY lexeme) AS df FROM terms JOIN query USING (lexeme)),
size AS (SELECT count(*) AS n, avg(words) AS mean FROM passages),
best AS (
    SELECT passage, sum(ln(1 + (n - df + 0.5) / (df + 0.5)) * frequency * 2.2
        / (frequency + 1.2 * (0.25 + 0.75 * words / mean))) AS score
    FROM found JOIN passages ON id = passage CROSS JOIN size GROUP BY passage ORDER BY score DESC, passage LIMIT $2)
SELECT {_COLUMNS} FROM best JOIN passages ON id = passage ORDER BY score DESC, id"""  # noqa: S608
_SENTENCES = """
SELECT passage, content, 1 - (embedding <=> $1) AS similarity FROM sentences WHERE passage = ANY($2)
ORDER BY embedding <=> $1 LIMIT $3"""
# The row is locked from here to the end of the transaction: writers of one document come one after the other.
_CLAIM = """
INSERT INTO documents (source, version, digest) VALUES ($1, $2, $3) ON CONFLICT (source) DO UPDATE
SET version = excluded.version, digest = excluded.digest, ingested_at = now()
WHERE documents.version <= excluded.version RETURNING true"""
_LEXEMES = "SELECT lexeme, coalesce(array_length(positions, 1), 1) FROM unnest(to_tsvector('english', $1))"
_WRITE = """
INSERT INTO passages (source, ordinal, heading, anchor, content, digest, words, embedding)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id"""

_AWAY = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError,
         asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)  # fmt: skip


class StaleError(Exception):
    """A document's passages are others than they were when they were read: another version of it came in between."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that was found."""

    id: int
    source: str
    heading: str
    anchor: str
    content: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a passage, and its cosine similarity to the question."""

    passage: int
    content: str
    similarity: float


@dataclass(frozen=True, slots=True)
class NewPassage:
    """A chunk with its vector, its sentences and theirs."""

    chunk: Chunk
    vector: Vectors
    sentences: Sequence[str]
    sentence_vectors: Vectors


class Store:
    """A pool of connections to one database, made when they are used first. Use it on one event loop, and close it there."""

    def __init__(self, url: str = "") -> None:
        """Take the server's address from RAG_DATABASE_URL if none is given."""
        self._url = url or os.environ.get("RAG_DATABASE_URL", "")
        self._pool: asyncpg.Pool | None = None
        self._opening: asyncio.Task[asyncpg.Pool] | None = None

    async def nearest(self, vector: Vectors, count: int) -> list[Passage]:
        """Return the passages whose vectors are nearest, the nearest first."""
        async with self._connection() as connection:
            return _passages(await connection.fetch(_NEAREST, Vector(vector), count))

    async def matching(self, question: str, count: int) -> list[Passage]:
        """Return the passages that have most of the question's words, the best first."""
        async with self._connection() as connection:
            return _passages(await connection.fetch(MATCHING, question, count))

    async def sentences(self, vector: Vectors, passages: Sequence[int], count: int) -> list[Sentence]:
        """Return the nearest sentences of these passages, the nearest first."""
        async with self._connection() as connection:
            rows = await connection.fetch(_SENTENCES, HalfVector(vector), list(passages), count)
        return [Sentence(*row) for row in rows]

    async def unchanged(self, source: str, version: int, digest: bytes) -> bool:
        """Return whether a document is stored just so, and remember that this version of it is the same."""
        async with self._connection() as connection:
            return bool(await connection.fetchval(
                "UPDATE documents SET version = greatest(version, $2) WHERE source = $1 AND digest = $3 RETURNING true",
                source, version, digest,
            ))  # fmt: skip

    async def known(self, source: str) -> set[bytes]:
        """Return the digests of a document's passages."""
        async with self._connection() as connection:
            rows = await connection.fetch("SELECT digest FROM passages WHERE source = $1", source)
        return {row["digest"] for row in rows}

    async def replace(self, source: str, version: int, digest: bytes, passages: Sequence[NewPassage | Chunk]) -> bool:
        """Make these the document's passages, in one transaction; a Chunk is one that is stored already (`known`).

        Return False if a newer version of the document is stored, and nothing was changed. Raises StaleError if a
        passage that was known is gone.
        """
        async with self._connection() as connection, connection.transaction():
            written = await connection.fetchval(_CLAIM, source, version, digest)
            if written:
                await _write_passages(connection, source, passages)
            return bool(written)

    async def ping(self) -> None:
        """Raise UnavailableError if the server can't be reached."""
        async with self._connection() as connection:
            await connection.fetchval("SELECT 1")

    async def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            await self._pool.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection. Raises UnavailableError if the server can't be reached, or goes away while it is used."""
        pool: asyncpg.Pool | None = None
        try:
            pool = self._pool or await self._opened()
            async with pool.acquire(timeout=_CONNECT_SECONDS) as connection:
                yield connection
        except _AWAY as error:
            # A server that comes back may be another one, without a schema.
            if pool is not None and self._pool is pool and not isinstance(error, TimeoutError):
                self._pool = None
                pool.terminate()
            what = str(error) or type(error).__name__
            raise UnavailableError(f"the document store (PostgreSQL) can't be reached: {what}") from None

    async def _opened(self) -> asyncpg.Pool:
        # All who come while it is tried share the one try: a server that doesn't answer would hold them up one by one.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open())
        self._pool = await asyncio.shield(self._opening)
        return self._pool

    async def _open(self) -> asyncpg.Pool:
        # The extension has to be there before its types can be registered in the pool's sessions.
        connection = await asyncpg.connect(self._url, timeout=_CONNECT_SECONDS)
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
                await connection.execute(_SCHEMA)
        finally:
            await connection.close()
        return await asyncpg.create_pool(
            self._url, min_size=0, max_size=_CONNECTIONS, timeout=_CONNECT_SECONDS, command_timeout=30, init=register_vector,
            server_settings=_SESSION,
        )  # fmt: skip


async def _write_passages(connection: asyncpg.Connection, source: str, passages: Sequence[NewPassage | Chunk]) -> None:
    chunks = [passage.chunk if isinstance(passage, NewPassage) else passage for passage in passages]
    digests = [chunk.digest for chunk in chunks]
    await connection.execute("DELETE FROM passages WHERE source = $1 AND digest <> ALL($2)", source, digests)
    stored = {row[0] for row in await connection.fetch("SELECT digest FROM passages WHERE source = $1", source)}
    for ordinal, (passage, chunk) in enumerate(zip(passages, chunks, strict=True)):
        if chunk.digest in stored:
            await connection.execute(
                "UPDATE passages SET ordinal = $3 WHERE source = $1 AND digest = $2 AND ordinal <> $3",
                source, chunk.digest, ordinal,
            )  # fmt: skip
            continue
        if not isinstance(passage, NewPassage):
            raise StaleError(source)
        lexemes = await connection.fetch(_LEXEMES, f"{chunk.heading}\n{chunk.text}")
        identity = await connection.fetchval(
            _WRITE, source, ordinal, chunk.heading, chunk.anchor, chunk.text, chunk.digest,
            sum(frequency for _, frequency in lexemes), Vector(passage.vector),
        )  # fmt: skip
        await connection.executemany(
            "INSERT INTO terms VALUES ($1, $2, $3)", [(one, identity, n) for one, n in lexemes]
        )
        vectors = passage.sentence_vectors.astype(np.float16)
        rows = [
            (identity, number, sentence, HalfVector(vector))
            for number, (sentence, vector) in enumerate(zip(passage.sentences, vectors, strict=True))
        ]
        await connection.executemany("INSERT INTO sentences VALUES ($1, $2, $3, $4)", rows)


def _passages(rows: Sequence[asyncpg.Record]) -> list[Passage]:
    return [Passage(*row) for row in rows]
