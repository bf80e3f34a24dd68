"""Clients that others wrote, each in an environment of its own: their protobuf isn't the server's."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import environments
from harness.processes import ROOT

HERE = Path(__file__).parent
CHAT = """
class Chat:
    def predict(self, batch):
        return [text.upper() for text in batch]

    async def stream(self, request):
        for word in request.split():
            yield word
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]) -> Iterator[Any]:
    """The digits, and a class that streams."""
    repository = tmp_path_factory.mktemp("outside")
    (repository / "digits").symlink_to(ROOT / "examples/models/digits")
    (repository / "chat/1").mkdir(parents=True)
    (repository / "chat/1/model.py").write_text(CHAT)
    with serve(repository) as running:
        yield running


# Making the environments takes its time where there are none yet.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("lock", "program"), [("clients.lock", "triton.py"), ("kserve.lock", "kserve_clients.py")])
def test_clients_of_others_find_a_v2_server(server: Any, lock: str, program: str) -> None:
    """tritonclient and KServe's clients: HTTP and gRPC, binary and JSON; tritonclient sync and asyncio, packed, streaming."""
    python = environments.python(HERE / lock)
    addresses = [server.url.removeprefix("http://"), server.record("gRPC is ready")["address"]]
    command = [str(python), str(HERE / "outside" / program), *addresses]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr
