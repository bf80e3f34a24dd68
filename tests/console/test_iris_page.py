"""From scikit-learn to a browser: examples/iris, as docs/models.md tells it, each command as it stands there."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from harness.pair import Gateway, Inference, token
from harness.processes import ROOT

IRIS = ROOT / "examples/iris"


class Quiet(SimpleHTTPRequestHandler):
    """`python -m http.server`, without its log."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    """The page's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(IRIS)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def inference(tmp_path: Path) -> Iterator[Inference]:
    """Serves what train.py wrote."""
    subprocess.run(
        [sys.executable, IRIS / "train.py", tmp_path / "models"], check=True, timeout=120, capture_output=True
    )
    server = Inference(0, tmp_path / "models")
    yield server
    server.stop()


async def test_a_page_shows_what_a_scikit_learn_model_says_as_its_sliders_move(
    page: Page, site: str, inference: Inference, start_gateway: Callable[..., Gateway]
) -> None:
    config = {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "http": {"origins": [site]}}
    gateway = start_gateway(config)
    gateway.wait_ready()
    await page.goto(f"{site}/#{token()}@{gateway.url.removeprefix('http://')}")
    await expect(page.locator("#answer")).to_have_text("setosa: setosa 98 %, versicolor 2 %, virginica 0 %")
    for name, value in (("petal length", "6.1"), ("petal width", "2.3"), ("sepal length", "7")):
        await page.get_by_label(name).fill(value)
    await expect(page.locator("#answer")).to_contain_text("virginica: ")
