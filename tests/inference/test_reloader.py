"""A repository that changes while it is served: what is new is loaded, what has changed exchanged, what has gone unloaded."""

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.waiting import until
from podpair.inference.core.changes import RETRY_SECONDS, Changes, PendingChanges
from podpair.inference.runtime.repository import ModelRepository

CLASS = "class Model:\n    def predict(self, batch):\n        return ['{answer}' for _ in batch]\n"


def write(model: Path, answer: str, version: int = 1) -> Path:
    folder = model / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(CLASS.format(answer=answer))
    return model


def ask(server: Any, model: str) -> Any:
    return server.post(f"/v2/models/{model}/generate", {"input": "x"})


def becomes(server: Any, model: str, expected: str | None) -> None:
    """Ask until the answer is that; None: until there is no such model."""

    def answer() -> Any:
        reply = ask(server, model)
        return reply.json["output"] if reply.status == 200 else None

    until(lambda: answer() == expected, lambda: f"{model} answers {answer()}, not {expected}")


@pytest.fixture
def watch(tmp_path: Path, start: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Serve and watch the repository `models`, at a quick pace."""

    def begin(**options: Any) -> Any:
        settings = {"PODPAIR_MODELS__WATCH": "true", "PODPAIR_MODELS__POLL_SECONDS": "0.02"}
        return start(tmp_path / "models", **settings, **options)

    return begin


def test_models_come_change_and_go(tmp_path: Path, watch: Callable[..., Any]) -> None:
    repository = tmp_path / "models"
    write(repository / "a", "one")
    server = watch()
    assert ask(server, "a").json["output"] == "one"
    write(repository / "b", "new")
    becomes(server, "b", "new")
    write(repository / "a", "two")
    becomes(server, "a", "two")
    write(repository / "a", "second", version=2)
    becomes(server, "a", "second")
    shutil.rmtree(repository / "b")
    becomes(server, "b", None)
    (repository / "a/model.yaml").write_text("versions: [{version: 1, weight: 1}]")
    becomes(server, "a", "two")


def test_what_cannot_be_loaded_changes_nothing_until_it_is_mended(tmp_path: Path, watch: Callable[..., Any]) -> None:
    repository = tmp_path / "models"
    write(repository / "a", "one")
    server = watch()
    (repository / "a/1/model.py").write_text("class Model:\n    def predict(self, batch)\n")
    record = server.record("a model stays as it was")
    assert "a/1/model.py:2: SyntaxError" in record["error"]
    assert ask(server, "a").json["output"] == "one"
    # A copy that is half done: a folder without its file, then the file.
    (repository / "half/1").mkdir(parents=True)
    write(repository / "a", "mended")
    becomes(server, "a", "mended")
    assert ask(server, "half").status == 404
    write(repository / "half", "whole")
    becomes(server, "half", "whole")


def test_links_that_are_pointed_elsewhere_are_followed(tmp_path: Path, watch: Callable[..., Any]) -> None:
    """As git-sync keeps a repository, and kubelet a ConfigMap in it."""
    (tmp_path / "models").symlink_to(tmp_path / "tree-1")
    data = tmp_path / "tree-1/a"
    write(tmp_path / "tree-1/b", "b-one")
    (data / "1").mkdir(parents=True)
    (data / "..data").symlink_to("..2026_1")
    for name, answer in (("..2026_1", "one"), ("..2026_2", "two")):
        (data / name).mkdir()
        (data / name / "model.py").write_text(CLASS.format(answer=answer))
    (data / "1/model.py").symlink_to("../..data/model.py")
    server = watch()
    assert ask(server, "a").json["output"] == "one"
    (data / "new").symlink_to("..2026_2")
    (data / "new").rename(data / "..data")
    becomes(server, "a", "two")
    write(tmp_path / "tree-2/a", "three")
    (tmp_path / "link").symlink_to(tmp_path / "tree-2")
    (tmp_path / "link").rename(tmp_path / "models")
    becomes(server, "a", "three")
    becomes(server, "b", None)


def test_a_volume_that_goes_away_unloads_nothing(tmp_path: Path) -> None:
    models = ModelRepository(tmp_path / "models")
    write(tmp_path / "models/a", "one")
    changes = Changes(models.states())
    (tmp_path / "models").rename(tmp_path / "away")
    assert changes.poll(models.states(), 0.0) == PendingChanges()
    (tmp_path / "models").mkdir()
    for _ in range(3):
        assert changes.poll(models.states(), 0.0) == PendingChanges()
    assert changes.poll({"b": "1"}, 0.0) == PendingChanges()
    assert changes.poll({"b": "1"}, 0.0) == PendingChanges({"b": "1"}, ["a"])


def test_it_waits_for_a_repository_that_is_not_there_yet(tmp_path: Path, watch: Callable[..., Any]) -> None:
    server = watch(wait_for="listening")
    assert server.record("nothing can be served yet")["faults"][0].endswith("models.repository")
    assert server.get("/v2/health/ready").status == 503
    write(tmp_path / "models/a", "one")
    server.record("ready")
    becomes(server, "a", "one")


# By runtime.process: each exchange starts a process where that is so.
EXCHANGES = {True: 20, False: 200}


@pytest.mark.slow
def test_many_exchanges_under_load_fail_no_request(tmp_path: Path, watch: Callable[..., Any], process: bool) -> None:
    """Three clients ask without a pause; a half of the exchanges is found by looking, a half asked for."""
    repository = tmp_path / "models"
    write(repository / "a", "0")
    (repository / "a/model.yaml").write_text(f"runtime: {{process: {str(process).lower()}}}")
    server = watch()
    done = threading.Event()

    def client(_: int) -> list[tuple[int, str]]:
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        found = []
        while not done.is_set():
            connection.request("POST", "/v2/models/a/generate", '{"input": "x"}')
            answer = connection.getresponse()
            found.append((answer.status, answer.read().decode()))
        connection.close()
        return found

    with ThreadPoolExecutor(3) as threads:
        clients = [threads.submit(client, i) for i in range(3)]
        try:
            for i in range(1, EXCHANGES[process] + 1):
                write(repository / "a", str(i))
                if i % 2:
                    assert server.post("/v2/repository/models/a/load", b"").status == 200
                becomes(server, "a", str(i))
        finally:
            done.set()
        answers = [answer for future in clients for answer in future.result(30)]
    assert {status for status, _ in answers} == {200}
    assert len(answers) >= EXCHANGES[process]


names = st.sampled_from("abc")
states = st.dictionaries(names, st.sampled_from("123"), max_size=3)


@given(states, st.lists(states, min_size=1, max_size=12))
def test_what_is_loaded_has_settled_and_what_is_unloaded_has_gone(first: Any, looks: list[Any]) -> None:
    changes = Changes(first)
    served, before = dict(first), first
    for now in looks:
        todo = changes.poll(now, 0.0)
        for name, state in todo.load.items():
            assert (before.get(name), now[name]) == (state, state)
            assert served.get(name) != state
            changes.loaded(name, state)
            served[name] = state
        for name in todo.unload:
            assert name in served
            assert name not in now
            assert name not in before
            changes.unloaded(name)
            del served[name]
        before = now or before
    # What stays as it is for two looks more is what is served.
    for _ in range(2):
        todo = changes.poll(now, 0.0)
        for name, state in todo.load.items():
            changes.loaded(name, state)
            served[name] = state
        for name in todo.unload:
            changes.unloaded(name)
            del served[name]
    if now:
        assert served == now


def test_what_failed_is_tried_again_when_it_changes_or_after_a_while() -> None:
    changes = Changes({"a": "1"})
    changes.poll({"a": "2"}, 0.0)
    assert changes.poll({"a": "2"}, 1.0).load == {"a": "2"}
    changes.failed("a", "2", 1.0)
    assert not changes.poll({"a": "2"}, 2.0).load
    assert changes.poll({"a": "2"}, 1.0 + RETRY_SECONDS).load == {"a": "2"}
    changes.failed("a", "2", 70.0)
    changes.poll({"a": "3"}, 71.0)
    assert changes.poll({"a": "3"}, 72.0).load == {"a": "3"}


def test_a_model_s_own_bytecode_and_hidden_files_are_no_change(tmp_path: Path) -> None:
    write(tmp_path / "a", "one")
    models = ModelRepository(tmp_path)
    before = models.states()
    (tmp_path / "a/1/__pycache__").mkdir()
    (tmp_path / "a/1/__pycache__/model.pyc").write_text("x")
    (tmp_path / "a/.tmp").write_text("x")
    (tmp_path / "a/1/again").symlink_to(tmp_path)
    assert models.states() != before  # a link to a folder is one; it doesn't lead round for ever
    (tmp_path / "a/1/again").unlink()
    assert models.states() == before
