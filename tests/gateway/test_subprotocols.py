"""What WebSocket clients of others make of the answer to what they offer: never an upgrade that they then refuse themselves."""

import json
import shutil
from pathlib import Path

import pytest

from harness import environments
from harness.javascript import packages
from harness.machine import require
from harness.pair import Gateway, token
from harness.processes import output_of

HERE = Path(__file__).parent / "outside"
JAVASCRIPT = HERE / "websockets"
# What the offers come to: a token alone (an unknown one without a token is 401), and two that hold one that is known.
REFUSED = "400 besides bearer.<token> offer podpair.v1 or podpair.v1.raw, too"
OUTCOMES = [REFUSED, "podpair.v1", "podpair.v1.raw"]


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """A folder with the program and its packages."""
    folder = packages(JAVASCRIPT / "package-lock.json")
    shutil.copy(JAVASCRIPT / "offers.mjs", folder)
    return folder


@pytest.mark.timeout(600)
def test_ws_and_undici(pair: Gateway, node_modules: Path) -> None:
    (node,) = require("node")
    found = json.loads(output_of(node, "offers.mjs", pair.ws, token(), cwd=node_modules))
    assert found["ws"][1].startswith("401 no token")
    assert [found["ws"][0], *found["ws"][2:]] == OUTCOMES
    assert found["undici"] == ["refused", "refused", *OUTCOMES[1:]]


@pytest.mark.timeout(600)
def test_websockets(pair: Gateway) -> None:
    python = environments.python(HERE / "websockets.lock")
    found = json.loads(output_of(python, HERE / "offers.py", pair.ws, token()))
    assert found[1].startswith("401 no token")
    assert [found[0], *found[2:]] == OUTCOMES
