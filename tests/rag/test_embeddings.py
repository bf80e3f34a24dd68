"""The model that is served answers what plain ONNX Runtime and mean pooling do."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from harness.processes import ROOT
from harness.rag import run_in_environment
from rag.conftest import Application

pytestmark = pytest.mark.process


def test_embeddings_are_those_of_plain_onnx_runtime(application: Application) -> None:
    lines = [line for line in (ROOT / "docs/protocol.md").read_text().splitlines() if len(line) > 60]
    texts = ["a", "What happens to a slow client?", *lines[:20], " ".join(lines[:8]), "Ünïcödé 漢字 🙂"]
    plain = run_in_environment(Path(__file__).with_name("plain_embeddings.py"), texts)
    # In one batch, padded to the longest: what neighbours and padding may not change.
    longest = max(len(one["ids"]) for one in plain)
    rows = [one["ids"] + [0] * (longest - len(one["ids"])) for one in plain]
    tensor = {"name": "input_ids", "datatype": "INT64", "shape": [len(rows), longest], "data": rows}
    request = urllib.request.Request(
        f"{application.models.url}/v2/models/embedding/infer", json.dumps({"inputs": [tensor]}).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (output,) = json.load(answer)["outputs"]
    served = np.array(output["data"]).reshape(output["shape"])
    expected = np.array([one["vector"] for one in plain])
    assert output["name"] == "sentence_embedding"
    assert np.allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)
    assert (served * expected).sum(axis=1).min() >= 0.999
    # Other texts have other vectors: a constant would pass, too.
    assert (served @ expected.T)[~np.eye(len(rows), dtype=bool)].min() < 0.5
