"""FastAPI with an ONNX model: `server.py --port N`. `/json` takes a list of floats, `/raw` bytes. Small models run in the event
loop, which answers more of them; what takes longer in its thread pool, as FastAPI's documentation has it.
"""

import argparse
import sys
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from onnx_model import SHAPE, WORKERS, Model, row

model = Model()


@asynccontextmanager
async def lifespan(app):
    to_thread.current_default_thread_limiter().total_tokens = WORKERS
    yield


app = FastAPI(lifespan=lifespan)


def answer(data: bytes):
    return model.run(row(data)[None]).tobytes()


@app.post("/json")
async def of_json(data: list[float]) -> list[float]:
    return model.run(np.array(data, np.float32).reshape(1, *SHAPE))[0].tolist()


@app.post("/raw")
async def of_bytes(request: Request):
    data = await request.body()
    found = await run_in_threadpool(answer, data) if WORKERS > 1 else answer(data)
    return Response(found, media_type="application/octet-stream")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="error", access_log=False)
