"""Whatever a client sends that it should not: the event, status or close code that the protocol names, and it lives on."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any

import aiohttp
import jwt
import numpy as np
import pytest

from gateway.conftest import ROW, Client, Connect, Refusal, kafka_of, resuming
from harness.pair import RESUME_SECRET, SECRET, Gateway, token

INFER = {"type": "infer", "id": "bad", "model": "digits", "data": ROW}
LARGE = "x" * 10_000_000


def tensor(**changed: Any) -> dict[str, Any]:
    return {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": ROW, **changed}


def infer(**changed: Any) -> dict[str, Any]:
    return {k: v for k, v in {**INFER, **changed}.items() if v is not None}


def asks(**changed: Any) -> dict[str, Any]:
    return infer(data=None, inputs=[tensor(**changed)])


# What is sent, the error's id, its code, and what its message says.
FRAMES: dict[str, tuple[Any, str | None, str, str]] = {
    "not JSON": ("hello", None, "invalid", "not JSON"),
    "half of it": ('{"type":"infer"', None, "invalid", "not JSON"),
    "empty": ("", None, "invalid", "not JSON"),
    "not an object": ("[1]", None, "invalid", "object"),
    "binary": (b"\x93\x00\xff", None, "invalid", "not JSON"),
    "nested deep": ("[" * 400_000, None, "invalid", ""),
    "nested deep in data": (json.dumps(infer(data=7))[:-2] + "[" * 90_000 + "]" * 90_000 + "}", None, "invalid", "deep"),
    "unknown type": ({"type": "teach", "id": "bad"}, None, "invalid", "'teach'"),
    "no type": ({"id": "bad"}, None, "invalid", "`type`"),
    "unknown member": (infer(colour="red"), "bad", "invalid", "`colour`"),
    "empty id": (infer(id=""), None, "invalid", "length >= 1"),
    "too long id": (infer(id="x" * 129), None, "invalid", "length <= 128"),
    "id is a number": (infer(id=7), None, "invalid", "Expected `str`"),
    "both inputs and data": (infer(inputs=[tensor()]), "bad", "invalid", "exactly one"),
    "neither": (infer(data=None), "bad", "invalid", "exactly one"),
    "NaN": (json.dumps(infer(data=[float("nan")] * 64)), None, "invalid", "not JSON"),
    "Infinity": (json.dumps(infer(data=[float("inf")] * 64)), None, "invalid", "not JSON"),
    "a number out of range": (json.dumps(infer(data=ROW))[:-5] + "1e999]}", "bad", "invalid", "out of range"),
    "deadline passed": (infer(deadline_ms=-1), "bad", "invalid", "deadline_ms"),
    "unknown route": (infer(route="fast"), "bad", "invalid", "'fast'"),
    "unknown model": (infer(model="nobody"), "bad", "not_found", "nobody"),
    "unknown model, inputs": (infer(model="nobody", data=None, inputs=[tensor()]), "bad", "not_found", "nobody"),
    "unknown model, queued": (infer(model="nobody", route="queue"), "bad", "not_found", "nobody"),
    "a model that is a path": (infer(model="../v2"), "bad", "invalid", "model"),
    "a model that is a folder": (infer(model=".."), "bad", "invalid", "model"),
    "wrong width": (infer(data=[1.0, 2.0]), "bad", "invalid", "shape [2]"),
    "wrong width, queued": (infer(data=[1.0, 2.0], route="queue"), "bad", "invalid", "shape [2]"),
    "ragged": (infer(data=[ROW, ROW[1:]]), "bad", "invalid", "ragged"),
    "data is null": (json.dumps(INFER).replace(json.dumps(ROW), "null"), "bad", "invalid", "shape []"),
    "texts for numbers": (infer(data=["x"] * 64), "bad", "invalid", ""),
    "inputs is no list": (infer(data=None, inputs={"name": "pixels"}), "bad", "invalid", "list of V2 tensors"),
    "no inputs": (infer(data=None, inputs=[]), "bad", "invalid", ""),
    "inputs are no tensors": (infer(data=None, inputs=[5]), "bad", "invalid", ""),
    "wrong name": (asks(name="image"), "bad", "invalid", "pixels"),
    "wrong shape": (asks(shape=[1, 63], data=ROW[1:]), "bad", "invalid", "shape"),
    "shape and data disagree": (asks(shape=[2, 64]), "bad", "invalid", ""),
    "negative shape": (asks(shape=[-1, 64]), "bad", "invalid", ""),
    "wrong dtype": (asks(datatype="INT64", data=[0] * 64), "bad", "invalid", "FP32"),
    "no such dtype": (asks(datatype="FP99"), "bad", "invalid", "FP99"),
    "wrong dtype, queued": ({**asks(datatype="INT64", data=[0] * 64), "route": "queue"}, "bad", "invalid", "FP32"),
    "parameters is no object": (infer(parameters=[1]), "bad", "invalid", "`parameters`"),
    "refresh with noise": ({"type": "refresh", "token": "noise"}, None, "unauthorized", "not a JWT"),
    "refresh with another user's": (
        {"type": "refresh", "token": token("mallory")}, None, "unauthorized", "another user's",
    ),
    "refresh with an expired one": ({"type": "refresh", "token": token(exp=1)}, None, "unauthorized", "expired"),
    "cancel without an id": ({"type": "cancel"}, None, "invalid", "`id`"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
async def test_a_bad_frame(pair: Gateway, connect: Connect, name: str) -> None:
    frame, request_id, code, said = FRAMES[name]
    client = await connect(pair)
    await client.send(frame)
    error = await client.event("error")
    assert (error.get("id"), error["code"]) == (request_id, code), error
    assert said in error["message"]
    assert len(error["message"]) < 600
    assert all(event["type"] == "accepted" for event in client.skipped)
    await client.lives()


async def test_a_cancel_of_nothing_is_no_error(pair: Gateway, connect: Connect) -> None:
    client = await connect(pair)
    await client.send({"type": "cancel", "id": "nothing"})
    await client.lives()
    assert all(event["type"] == "accepted" for event in client.skipped)


async def test_an_id_in_flight_is_refused_and_the_first_goes_on(
    before_model: Gateway, model: Any, connect: Connect
) -> None:
    model.open.clear()
    client = await connect(before_model)
    await client.infer("twice", data=[1, 2])
    await client.event("accepted", id="twice")
    await client.infer("twice", data=[1, 2])
    error = await client.event("error")
    assert "id" not in error
    assert (error["code"], "already in flight" in error["message"]) == ("invalid", True)
    # Neither does a faulty frame with that id look like its end.
    await client.send({"type": "infer", "id": "twice", "model": "fake", "data": 1, "what": 1})
    assert "id" not in await client.event("error")
    model.open.set()
    assert (await client.answer("twice"))["type"] == "result"
    assert len(model.asked) == 1


async def test_a_10_mb_frame_closes_with_1009_and_the_session_resumes(
    pair: Gateway, connect: Connect, push: Callable[..., None]
) -> None:
    client = await connect(pair)
    with suppress(ConnectionError):  # it need not be taken to its end
        await client.send(LARGE)
    assert await client.closed() == 1009
    push(kafka_of(pair), client.welcome["session"], b'"meanwhile"')
    again = await connect(pair, params=resuming(client))
    assert again.welcome["session"] == client.welcome["session"]
    assert (await again.event("push"))["data"] == "meanwhile"
    await again.lives()


async def test_a_frame_of_the_size_that_is_allowed_is_taken(before_model: Gateway, connect: Connect) -> None:
    client = await connect(before_model)
    assert client.welcome["limits"]["message_bytes"] == 4096
    frame = json.dumps({"type": "infer", "id": "r", "model": "fake", "data": [1, 2]})
    await client.send(frame + " " * (4096 - len(frame)))
    assert (await client.answer("r"))["type"] == "result"
    await client.send(frame + " " * (4097 - len(frame)))
    assert await client.closed() == 1009


@pytest.mark.parametrize("path", ["/v1/infer", "/v2/models/digits/infer"])
def test_a_10_mb_body_is_413(pair: Gateway, path: str) -> None:
    """Even to a client that reads no answer before it has written everything."""
    connection = HTTPConnection(pair.url.removeprefix("http://"), timeout=30)
    connection.request("POST", path, LARGE, {"Authorization": f"Bearer {token(sid='large')}"})
    answer = connection.getresponse()
    error = json.load(answer)["error"]
    connection.close()
    message = error if path.startswith("/v2") else error["message"]
    assert (answer.status, message) == (413, "the body is larger than 1048576 bytes (limits.message_bytes)")


async def test_nan_in_a_binary_tensor_is_400(pair: Gateway, http: aiohttp.ClientSession) -> None:
    values = np.full(64, np.nan, np.float32).tobytes()
    head = json.dumps({"inputs": [tensor(data=None, parameters={"binary_data_size": len(values)})]}).encode()
    headers = {"Authorization": f"Bearer {token()}", "Inference-Header-Content-Length": str(len(head))}
    async with http.post(pair.url + "/v2/models/digits/infer", data=head + values, headers=headers) as answer:
        assert answer.status == 400
        assert "pixels" in (await answer.json())["error"]


POSTS: dict[str, tuple[bytes, int, str, str]] = {
    "not JSON": (b"hello", 400, "invalid", "not JSON"),
    "not UTF-8": (b'{"id":"\xff"}', 400, "invalid", "UTF-8"),
    "empty": (b"", 400, "invalid", "not JSON"),
    "nested deep": (b"[" * 400_000, 400, "invalid", ""),
    "another type": (b'{"type":"cancel","id":"r"}', 400, "invalid", "'cancel'"),
    "no model": (b'{"id":"r","data":[1]}', 400, "invalid", "`model`"),
}


@pytest.mark.parametrize("name", POSTS)
async def test_a_bad_post(pair: Gateway, http: aiohttp.ClientSession, name: str) -> None:
    body, status, code, said = POSTS[name]
    async with http.post(
        pair.url + "/v1/infer", data=body, headers={"Authorization": f"Bearer {token(sid='poster')}"}
    ) as answer:
        assert answer.status == status
        error = (await answer.json())["error"]
    assert error["code"] == code
    assert said in error["message"]


async def test_a_post_into_no_session(pair: Gateway, http: aiohttp.ClientSession) -> None:
    async with http.post(pair.url + "/v1/infer", json=INFER, headers={"Authorization": f"Bearer {token()}"}) as answer:
        assert answer.status == 400
        assert "missing session" in (await answer.json())["error"]["message"]


def none_token() -> str:
    return jwt.encode({"sub": "user", "exp": int(time.time()) + 86_400}, None, algorithm="none")


def resume_token(secret: str = RESUME_SECRET, **changed: Any) -> str:
    claims = {"aud": "podpair.resume", "sid": "s-1", "sub": "user", "exp": int(time.time()) + 86_400, **changed}
    return jwt.encode(claims, secret, algorithm="HS256")


OTHER = "another-secret-0123456789-0123456789-xyz"
GOOD = {"Authorization": f"Bearer {token()}"}

REFUSALS: dict[str, tuple[dict[str, str], dict[str, str], int, str, str]] = {
    "no token": ({}, {}, 401, "unauthorized", "no token"),
    "no bearer": ({"Authorization": "Basic dTpw"}, {}, 401, "unauthorized", "no token"),
    "a token in the query": ({}, {"token": token()}, 401, "unauthorized", "no token"),
    "another secret": ({"Authorization": f"Bearer {token(secret=OTHER)}"}, {}, 401, "unauthorized", "signature"),
    "alg none": ({"Authorization": f"Bearer {none_token()}"}, {}, 401, "unauthorized", "'none', but HS256 is needed"),
    "expired": ({"Authorization": f"Bearer {token(exp=1)}"}, {}, 401, "unauthorized", "has expired"),
    "not yet": ({"Authorization": f"Bearer {token(nbf=2**40)}"}, {}, 401, "unauthorized", "not valid yet"),
    "no exp": ({"Authorization": f"Bearer {token(exp=None)}"}, {}, 401, "unauthorized", "lacks the claim exp"),
    "no sub": ({"Authorization": f"Bearer {token(sub='')}"}, {}, 401, "unauthorized", "sub"),
    "a bad sid": ({"Authorization": f"Bearer {token(sid='a b')}"}, {}, 401, "unauthorized", "sid"),
    "noise": ({"Authorization": "Bearer noise"}, {}, 401, "unauthorized", "not a JWT"),
    "noise as subprotocol": ({"Sec-WebSocket-Protocol": "podpair.v1, bearer.x"}, {}, 401, "unauthorized", "not a JWT"),
    "a resume token": ({"Authorization": f"Bearer {resume_token()}"}, {}, 401, "unauthorized", "signature"),
    "forged resume": (GOOD, {"resume": resume_token(OTHER)}, 401, "unauthorized", "not one of ours"),
    "resume is noise": (GOOD, {"resume": "\U0001f600"}, 401, "unauthorized", "not one of ours"),
    "resume is a JWT": (GOOD, {"resume": token(sid="s-1")}, 401, "unauthorized", "not one of ours"),
    "expired resume": (GOOD, {"resume": resume_token(exp=1)}, 401, "unauthorized", "expired"),
    "another's resume": (GOOD, {"resume": resume_token(sub="mallory")}, 401, "unauthorized", "another user's"),
    "resume of another sid": (
        {"Authorization": f"Bearer {token(sid='s-2')}"}, {"resume": resume_token()}, 401, "unauthorized", "sid",
    ),
    "malformed position": (GOOD, {"position": "yesterday"}, 400, "invalid", "<epoch>.<partition>.<offset>"),
    "negative position": (GOOD, {"position": "e.0.-7"}, 400, "invalid", "position 'e.0.-7'"),
    "unknown subprotocol": (GOOD | {"Sec-WebSocket-Protocol": "mqtt"}, {}, 400, "invalid", "'mqtt' is not known"),
    "a token as the only subprotocol": (
        {"Sec-WebSocket-Protocol": f"bearer.{token()}"}, {}, 400, "invalid",
        "besides bearer.<token> offer podpair.v1 or podpair.v1.raw",
    ),
    "foreign origin": (GOOD | {"Origin": "https://evil.example"}, {}, 403, "forbidden", "https://evil.example"),
    "null origin": (GOOD | {"Origin": "null"}, {}, 403, "forbidden", "null"),
    "broken origin": (GOOD | {"Origin": "http://[::1"}, {}, 403, "forbidden", "not allowed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_is_refused_before_the_upgrade(
    pair: Gateway, refused: Callable[..., Awaitable[Refusal]], name: str
) -> None:
    headers, params, status, code, said = REFUSALS[name]
    found, error, answered = await refused(pair, headers, params)
    assert (found, error["code"]) == (status, code), error
    assert said in error["message"]
    assert SECRET not in str(error)
    assert (status == 401) == ("WWW-Authenticate" in answered)


async def test_a_token_of_bytes_that_are_no_text(pair: Gateway) -> None:
    """No HTTP client sends these; a socket does."""
    host, port = pair.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe.a.b\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"the token is not a JWT" in answer


async def test_a_browser_is_told_that_the_upgrade_would_have_succeeded(
    pair: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.get(pair.url + "/v1/ws", headers=GOOD) as answer:
        assert answer.status == 426
        assert answer.headers["Upgrade"] == "websocket"


async def test_a_session_that_is_another_users(
    pair: Gateway, connect: Connect, refused: Callable[..., Awaitable[Refusal]]
) -> None:
    client = await connect(pair, sub="alice", sid="alices")
    resume = resume_token(sub="mallory", sid=client.welcome["session"])
    status, error, _ = await refused(pair, {"Authorization": f"Bearer {token('mallory')}"}, {"resume": resume})
    assert (status, error["message"]) == (401, "the session is another user's")
    await client.lives()


async def test_a_raw_connection_is_receive_only(pair: Gateway, connect: Connect) -> None:
    client = await connect(pair, raw=True)
    assert client.socket.protocol == "podpair.v1.raw"
    await client.send({"type": "cancel", "id": "x"})
    assert await client.closed() == 1003


def moved(client: Client, **changed: Any) -> str:
    """The client's position, changed."""
    epoch, partition, offset = client.welcome["position"].split(".")
    return f"{changed.get('epoch', epoch)}.{changed.get('partition', partition)}.{changed.get('offset', offset)}"


async def test_a_position_past_the_end_is_a_gap(pair: Gateway, connect: Connect) -> None:
    first = await connect(pair)
    asked = moved(first, offset=10**15)
    again = await connect(pair, params=resuming(first, asked))
    gap = await again.event("gap")
    assert (gap["from"], again.welcome["position"], gap["reason"]) == (asked, asked, "ahead")
    assert gap["to"].rpartition(".")[0] == first.welcome["position"].rpartition(".")[0]
    await again.lives()


@pytest.mark.parametrize("changed", [{"epoch": "0ther"}, {"partition": 3_000}])
async def test_a_position_of_another_topic_is_a_gap(pair: Gateway, connect: Connect, changed: dict[str, Any]) -> None:
    first = await connect(pair)
    asked = moved(first, **changed)
    again = await connect(pair, params=resuming(first, asked))
    gap = await again.event("gap")
    # Who does not get the gap any more comes back with the same position, and is told again.
    assert (gap["from"], again.welcome["position"], gap["reason"]) == (asked, asked, "epoch")
    assert gap["to"].rpartition(".")[0] == first.welcome["position"].rpartition(".")[0]
    await again.lives()


async def test_a_position_at_the_end_is_no_gap(pair: Gateway, connect: Connect) -> None:
    first = await connect(pair)
    again = await connect(pair, params=resuming(first))
    assert again.welcome["position"] == first.welcome["position"]
    await again.lives()
    assert all(event["type"] == "accepted" for event in again.skipped)
