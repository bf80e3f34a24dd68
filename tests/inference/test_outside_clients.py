"""Clients that others wrote, in an environment of their own: their protobuf isn't the server's."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.processes import BIN, ROOT

HERE = Path(__file__).parent
LOCK = HERE / "clients.lock"
CHAT = """
class Chat:
    def predict(self, batch):
        return [text.upper() for text in batch]

    async def stream(self, request):
        for word in request.split():
            yield word
"""


def lacking(what: str) -> None:
    """Skip, or fail where nothing may be missing."""
    (pytest.fail if os.environ.get("PODPAIR_TEST_REQUIRE") == "all" else pytest.skip)(what)


@pytest.fixture(scope="session")
def clients() -> Path:
    """The Python that has them, exactly as clients.lock pins them; made once for each state of the lock."""
    folder = ROOT / ".cache/clients" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    python = folder / "bin/python"
    if (folder / "complete").exists():
        return python
    uv = str(BIN / "uv") if (BIN / "uv").exists() else shutil.which("uv")
    commands = [
        [uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, folder],
        [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", LOCK],
    ]
    for command in commands:
        made = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=150)
        if made.returncode:
            lacking(f"the environment of tests/inference/clients.lock can't be made: {made.stderr[-300:]}")
    (folder / "complete").touch()
    return python


def test_tritonclient_finds_a_v2_server(clients: Path, tmp_path: Path, serve: Callable[..., Any]) -> None:
    """Over HTTP and gRPC, sync and asyncio, binary and JSON, compressed, and streaming."""
    (tmp_path / "digits").symlink_to(ROOT / "examples/models/digits")
    (tmp_path / "chat/1").mkdir(parents=True)
    (tmp_path / "chat/1/model.py").write_text(CHAT)
    with serve(tmp_path) as server:
        addresses = [server.url.removeprefix("http://"), server.record("gRPC is ready")["address"]]
        done = subprocess.run(
            [str(clients), str(HERE / "outside/triton.py"), *addresses], capture_output=True, text=True, timeout=90
        )
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr
