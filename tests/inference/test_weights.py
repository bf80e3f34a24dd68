"""Weights set from outside: by a setting, and by a file that changes while the container runs."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podpair.common.faults import FaultsError
from podpair.inference.config.settings import load_settings
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.repository import ModelRepository
from podpair.inference.runtime.weights import WeightsSource

CLASS = "class Model:\n    def predict(self, batch):\n        return ['{version}' for _ in batch]\n"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Model `m` with the versions 1, 2, 3; by its own file 1 answers."""
    for version in (1, 2, 3):
        folder = tmp_path / "models/m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(CLASS.format(version=version))
    (tmp_path / "models/m/model.yaml").write_text("versions: [{version: 1, weight: 1}]\n")
    return tmp_path / "models"


def answers(server: Any, count: int) -> Counter[str]:
    return Counter(server.post("/v2/models/m/generate", {"input": "x"}).json["output"] for _ in range(count))


def exchange(file: Path, text: str) -> None:
    """As kubelet does it: the name is pointed at another file, at once."""
    target = file.with_name(f"{file.name}-{len(list(file.parent.iterdir()))}")
    target.write_text(text)
    link = file.with_name("link")
    link.symlink_to(target)
    link.rename(file)


def test_the_setting_goes_before_the_model_s_own_file(models: Path, serve: Callable[..., Any]) -> None:
    with serve(models, PODPAIR_MODELS__WEIGHTS='{"m": {"3": 90, "2": 10}}') as server:
        assert answers(server, 20) == {"3": 18, "2": 2}
        # A reload doesn't forget it.
        assert server.post("/v2/repository/models/m/load", b"").status == 200
        assert answers(server, 20) == {"3": 18, "2": 2}
        assert server.get("/v2/models/m").json["parameters"]["version"] == "3"


def test_a_file_is_taken_over_while_it_runs_and_a_wrong_one_changes_nothing(
    models: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    (tmp_path / "w").mkdir()
    file = tmp_path / "w/weights"
    exchange(file, json.dumps({"m": {"3": 1, "2": 3}}))
    settings = {"PODPAIR_MODELS__WEIGHTS_FILE": str(file), "PODPAIR_MODELS__POLL_SECONDS": "0.02"}
    with serve(models, **settings) as server:
        assert answers(server, 8) == {"2": 6, "3": 2}
        exchange(file, "m: {3: 1}")
        server.record("weights changed")
        assert answers(server, 4) == {"3": 4}
        exchange(file, "m: {3: 1, 7: 1}")
        kept = server.record("weights stay as they were")
        assert kept["faults"] == ["models.weights.m: there is no version 7; there are 1, 2, 3"]
        assert answers(server, 4) == {"3": 4}


def test_what_cannot_be_is_told_before_anything_is_started(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from podpair.inference.cli.main import main

    monkeypatch.setenv("PODPAIR_MODELS__WEIGHTS", '{"m": {"9": 1}, "n": {"1": 1}}')
    result = CliRunner().invoke(main, ["serve", "--models", str(models)])
    assert result.exit_code == 2
    assert "models.weights.m: there is no version 9; there are 1, 2, 3" in result.output
    assert "models.weights.n: there is no such model; there are m" in result.output
    monkeypatch.setenv("PODPAIR_MODELS__WEIGHTS", '{"m": {"1": 0}, "n": {"x": -1}}')
    with pytest.raises(FaultsError) as error:
        load_settings()
    assert "one of the versions needs a weight above 0" in "\n".join(error.value.faults)
    assert "environment PODPAIR_MODELS__WEIGHTS: models.weights.n" in "\n".join(error.value.faults)
    file = tmp_path / "weights"
    for text, complaint in (("m: {1: x}", "weights.m"), ("[", "not YAML")):
        file.write_text(text)
        with pytest.raises(FaultsError, match=complaint):
            WeightsSource({}, file).read()


def test_a_file_goes_before_the_setting_model_by_model_and_may_go_away(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    source = WeightsSource({"a": {1: 1.0}, "b": {1: 1.0}}, file)
    assert source.read() == {"a": {1: 1}, "b": {1: 1}}
    file.write_text("a: {2: 5}")
    assert source.poll() == {"a": {2: 5}, "b": {1: 1}}
    assert source.poll() is None
    os.unlink(file)
    assert source.poll() == {"a": {1: 1}, "b": {1: 1}}


@pytest.mark.process
async def test_a_hundred_thousand_requests_are_dealt_out_by_weight(models: Path) -> None:
    """Through the catalog, where every protocol asks; a key stays with its version whatever goes on beside it."""
    catalog = Catalog(ModelRepository(models), Metrics(), weights={"m": {3: 90, 2: 10}})
    await catalog.start()

    def ask(key: str | None = None) -> str:
        with catalog.using("m", None, key) as served:
            return served.version

    sessions = [f"session-{i}" for i in range(200)]
    first = {key: ask(key) for key in sessions}
    chosen = Counter[str]()
    for i in range(100_000):
        chosen[ask()] += 1
        key = sessions[i % len(sessions)]
        assert ask(key) == first[key]
    assert abs(chosen["2"] / 100_000 - 0.1) <= 0.005
    assert chosen["2"] + chosen["3"] == 100_000
    assert set(first.values()) == {"2", "3"}
    catalog.set_weights({"m": {3: 9, 2: 1}})
    assert {key: ask(key) for key in sessions} == first
    await catalog.stop(5)
