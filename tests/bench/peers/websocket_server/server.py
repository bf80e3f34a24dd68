"""FastAPI with a WebSocket, as its tutorial has it: `server.py --port N --secret S`, with the model in its process, or in a
Celery worker's where `--celery` is given. It speaks as much of podpair's JSON as the load client asks with.
"""

import argparse
import asyncio
from typing import Any

import jwt
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect, WebSocketException
from fastapi.concurrency import run_in_threadpool

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--secret", required=True)
parser.add_argument("--celery", action="store_true")
options = parser.parse_args()
app = FastAPI()


@app.get("/healthz")
async def healthz() -> str:
    return "ok"


async def welcome(websocket: WebSocket) -> None:
    token = websocket.headers.get("authorization", "").removeprefix("Bearer ")
    try:
        jwt.decode(token, options.secret, algorithms=["HS256"])
    except jwt.InvalidTokenError:
        raise WebSocketException(code=1008) from None
    await websocket.accept()
    await websocket.send_json({"type": "welcome"})


def result(message: dict[str, Any], answer: list[float]) -> dict[str, Any]:
    return {"data": {"y": answer}, "type": "result", "id": message["id"]}


if options.celery:
    from tasks import predict as task

    @app.websocket("/ws")
    async def queued(websocket: WebSocket) -> None:
        await welcome(websocket)

        async def answer(message: dict[str, Any]) -> None:
            waiting = await run_in_threadpool(task.delay, message["data"])
            found = await run_in_threadpool(waiting.get, timeout=60)
            await websocket.send_json(result(message, found))

        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    tasks.create_task(answer(await websocket.receive_json()))
        except* WebSocketDisconnect:
            pass

else:
    from model import predict

    @app.websocket("/ws")
    async def direct(websocket: WebSocket) -> None:
        await welcome(websocket)
        try:
            while True:
                message = await websocket.receive_json()
                await websocket.send_json(result(message, predict(message["data"])))
        except WebSocketDisconnect:
            pass


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error")
