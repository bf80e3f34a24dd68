"""Versions side by side, and models that are loaded, exchanged and unloaded while requests run."""

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from podpair.common.faults import FaultsError
from podpair.inference.core.traffic_split import TrafficSplit
from podpair.inference.runtime.repository import ModelRepository

# By runtime.process: each reload starts a process where that is so.
RELOADS = {True: 20, False: 200}
CLASS = "class Model:\n    def predict(self, batch):\n        return ['{answer}' for _ in batch]\n"


def write(repository: Path, version: int, answer: str, config: Any = None) -> None:
    folder = repository / "m" / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(CLASS.format(answer=answer))
    if config is not None:
        (repository / "m/model.yaml").write_text(json.dumps(config))


def ask(server: Any, path: str = "", **headers: str) -> Any:
    return server.post(f"/v2/models/m{path}/generate", {"input": "x"}, headers)


def test_requests_without_a_key_are_dealt_out_exactly() -> None:
    choice = TrafficSplit({"2": 10, "3": 90})
    found = Counter(choice.choose() for _ in range(100_000))
    assert found == {"2": 10_000, "3": 90_000}


def test_keys_stay_with_their_version_and_are_spread_by_weight() -> None:
    choice = TrafficSplit({"2": 10, "3": 90})
    keys = [f"session-{i}" for i in range(20_000)]
    first = [choice.choose(key) for key in keys]
    assert [TrafficSplit({"3": 9, "2": 1}).choose(key) for key in keys] == first
    assert abs(first.count("2") / len(keys) - 0.1) < 0.01


def test_a_change_of_weights_moves_only_the_keys_it_must() -> None:
    keys = [f"session-{i}" for i in range(20_000)]
    before, after = TrafficSplit({"2": 10, "3": 90}), TrafficSplit({"2": 20, "3": 80})
    moved = Counter((before.choose(key), after.choose(key)) for key in keys)
    assert moved["2", "3"] == 0
    assert moved["3", "2"] / len(keys) < 0.15


def test_a_version_of_weight_0_is_never_chosen() -> None:
    choice = TrafficSplit({"2": 0, "3": 1})
    assert {choice.choose(), choice.choose("key")} == {"3"}


def test_versions_answer_by_weight_by_key_and_by_number(tmp_path: Path, serve: Callable[..., Any]) -> None:
    write(tmp_path, 1, "old")
    write(tmp_path, 2, "new", {"versions": [{"version": "1", "weight": 3}, {"version": 2, "weight": 1}]})
    write(tmp_path, 3, "next")
    with serve(tmp_path) as server:
        assert Counter(ask(server).json["output"] for _ in range(40)) == {"old": 30, "new": 10}
        by_key = {key: {ask(server, **{"podpair-key": key}).json["output"] for _ in range(3)} for key in "abcdefghij"}
        assert all(len(outputs) == 1 for outputs in by_key.values())
        assert set.union(*by_key.values()) == {"old", "new"}
        assert ask(server, "/versions/3").json["model_version"] == "3"
        assert server.get("/v2/models/m").json["parameters"]["version"] == "1"
        stats = server.get("/v2/models/m/stats").json["model_stats"]
        assert [(s["version"], s["inference_stats"]["success"]["count"]) for s in stats][2] == ("3", 1)
        assert sum(s["inference_count"] for s in stats) == 40 + 30 + 1


@pytest.mark.parametrize(
    ("versions", "complaint"),
    [
        ([{"version": 7, "weight": 1}], "versions.0.version: there is no version 7"),
        ([{"version": 1, "weight": 0}], "one of them needs a weight above 0"),
        ([{"version": 1, "weight": -1}], "versions.0.weight"),
    ],
)
def test_shares_that_cannot_be(tmp_path: Path, versions: Any, complaint: str) -> None:
    write(tmp_path, 1, "a", {"versions": versions})
    with pytest.raises(FaultsError) as error:
        ModelRepository(tmp_path).read()
    assert complaint in "\n".join(error.value.faults)


def test_a_model_is_loaded_exchanged_and_unloaded(tmp_path: Path, serve: Callable[..., Any]) -> None:
    write(tmp_path, 1, "one")
    with serve(tmp_path) as server:
        write(tmp_path, 2, "two")
        assert server.post("/v2/repository/models/m/load", b"").status == 200
        assert ask(server).json["output"] == "two"
        # What can't be loaded changes nothing, and says why.
        (tmp_path / "m/2/model.py").write_text("class Model:\n    def predict(self, batch)\n")
        failed = server.post("/v2/repository/models/m/load", b"")
        assert failed.status == 400
        assert "m/2/model.py:2: SyntaxError" in failed.json["error"]
        assert ask(server).json["output"] == "two"
        assert server.post("/v2/repository/models/m/unload", b"").status == 200
        assert ask(server).status == 404
        (entry,) = server.post("/v2/repository/index", {}).json
        assert entry == {"name": "m", "version": "", "state": "UNAVAILABLE", "reason": "it was unloaded"}
        assert server.post("/v2/repository/index", {"ready": True}).json == []
        write(tmp_path, 2, "two again")
        assert server.post("/v2/repository/models/m/load", b"").status == 200
        assert ask(server).json["output"] == "two again"
        assert server.post("/v2/repository/models/none/load", b"").status == 404
        assert server.post("/v2/repository/models/none/unload", b"").status == 404
        assert server.post("/v2/repository/index", b"[").status == 400


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_reloads_under_load_fail_no_request(tmp_path: Path, serve: Callable[..., Any], process: bool) -> None:
    """Two clients ask without a pause while the model is exchanged many times, each time for another."""
    write(tmp_path, 1, "0", {"runtime": {"process": process}})
    done = threading.Event()

    def client(server: Any) -> list[tuple[int, str]]:
        found = []
        while not done.is_set():
            answer = ask(server)
            found.append((answer.status, answer.json.get("output")))
        return found

    with serve(tmp_path) as server, ThreadPoolExecutor(2) as threads:
        clients = [threads.submit(client, server) for _ in range(2)]
        try:
            for i in range(1, RELOADS[process] + 1):
                write(tmp_path, 1, str(i))
                assert server.post("/v2/repository/models/m/load", b"").status == 200
                assert ask(server).json["output"] == str(i)
        finally:
            done.set()
        answers = [answer for future in clients for answer in future.result(30)]
    assert {status for status, _ in answers} == {200}
    assert {output for _, output in answers} <= {str(i) for i in range(RELOADS[process] + 1)}


_START = b"HTTP/1.1 "


def answered_by(server: Any, requests: bytes, count: int) -> list[str]:
    """The version that answered each of `count` requests, sent on one connection one behind the other."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        sender = threading.Thread(target=connection.sendall, args=(requests,))
        sender.start()
        parts, seen, tail = [], 0, b""
        while seen < count or not tail.endswith(b"}"):
            part = connection.recv(1 << 20)
            assert part, parts[-1:]
            seen += (tail + part).count(_START)
            tail = (tail + part)[1 - len(_START) :]
            parts.append(part)
        sender.join()
    answers = b"".join(parts)
    assert answers.count(b"HTTP/1.1 200 ") == count
    return [found.decode() for found in re.findall(rb'"model_version":"(\d+)"', answers)]


@pytest.mark.timeout(600)
def test_of_100_000_requests_over_http_each_version_gets_its_share_and_keys_stay(
    tmp_path: Path, serve: Callable[..., Any], save_model: Callable[..., None]
) -> None:
    """90/10: of requests without a key exactly, of sessions within half a percent, each always at the same version."""
    shares = {"versions": [{"version": 2, "weight": 90}, {"version": 1, "weight": 10}]}
    spec = (TensorProto.FLOAT, ["n", 1])
    for version in (1, 2):
        node = [helper.make_node("Abs", ["x"], ["y"])]
        save_model(tmp_path / f"m/{version}", node, {"x": spec}, {"y": spec}, None, shares if version == 2 else None)
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}'

    def request(key: str) -> bytes:
        named = f"podpair-key: {key}\r\n" if key else ""
        return (
            f"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\n{named}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )

    sessions = [f"session-{i}" for i in range(25_000)]
    with serve(tmp_path) as server, ThreadPoolExecutor(4) as threads:
        parts = [threads.submit(answered_by, server, request("") * 12_500, 12_500) for _ in range(4)]
        found = Counter(version for part in parts for version in part.result())
        assert found == {"1": 5_000, "2": 45_000}
        by_key = b"".join(map(request, sessions))
        parts = [threads.submit(answered_by, server, by_key, len(sessions)) for _ in range(2)]
        first, second = (part.result() for part in parts)
    assert first == second
    assert abs(Counter(first)["1"] / len(sessions) - 0.1) < 0.005
