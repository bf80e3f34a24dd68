"""Pages of other origins than the gateway's, in a real browser: allowed or not, they are told what is the matter."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from harness.pair import Gateway, Inference, token
from harness.processes import ROOT


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A site of another origin: its address, and the folder of its pages."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def snippet_of(page: str, first: str, lines: int) -> str:
    """Some lines of a page of the documentation, from the one that begins with `first`."""
    text = (ROOT / page).read_text().splitlines()
    begin = next(n for n, line in enumerate(text) if line.strip().startswith(first))
    return "\n".join(line.strip() for line in text[begin : begin + lines])


RUN = """() => import("/snippet.js").then(({ answer }) => answer, (error) => `${error.name}: ${error.message}`)"""
SNIPPETS = {
    "README.md": ('import { connect } from "http://127.0.0.1:8080/podpair.js";', 3, "127.0.0.1:8080", "result.data"),
    "docs/clients.md": ("// The page is at", 6, "models.example", "data"),
}


@pytest.fixture(params=SNIPPETS)
def snippet(request: pytest.FixtureRequest, site: tuple[str, Path]) -> Callable[[Gateway], str]:
    """`snippet(gateway)` makes a page of what stands in the documentation, with the gateway's address for the one there."""

    def write(gateway: Gateway) -> str:
        first, lines, host, answer = SNIPPETS[request.param]
        code = snippet_of(request.param, first, lines).replace(host, gateway.url.removeprefix("http://"))
        assert gateway.url.removeprefix("http://") in code
        code = code.replace("https://", "http://")
        before = f"const getToken = () => '{token()}', pixels = new Float32Array(64);\n"
        (site[1] / "snippet.js").write_text(f"{before}{code}\nexport const answer = {answer};\n")
        (site[1] / "index.html").write_text("<!doctype html><title>a page</title>")
        return f"{site[0]}/index.html"

    return write


def started(start: Callable[..., Gateway], inference: Inference, **http: Any) -> Gateway:
    gateway = start({"kafka": {"embedded": True}, "inference": {"url": inference.url}, "http": http})
    gateway.wait_ready()
    return gateway


async def test_what_the_docs_say_runs_as_it_stands_from_an_allowed_origin(
    page: Page, site: tuple[str, Path], snippet: Callable[[Gateway], str], inference: Inference,
    start_gateway: Callable[..., Gateway],
) -> None:  # fmt: skip
    gateway = started(start_gateway, inference, origins=[site[0]])
    await page.goto(snippet(gateway))
    assert "label" in await page.evaluate(RUN)


async def test_from_another_it_says_what_the_gateway_said(
    page: Page, site: tuple[str, Path], snippet: Callable[[Gateway], str], inference: Inference,
    start_gateway: Callable[..., Gateway],
) -> None:  # fmt: skip
    gateway = started(start_gateway, inference, origins=["https://app.example"])
    await page.goto(snippet(gateway))
    said = await page.evaluate(RUN)
    assert said.startswith(f"Forbidden: origin '{site[0]}' is not allowed (http.origins)"), said
    warning = gateway.wait_for_message("a page was refused")
    assert (warning["level"], warning["origin"]) == ("WARNING", site[0])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("await podpair.connect('{0}/nowhere/ws')", "NotFound: there is no /nowhere/ws"),
        ("await podpair.connect('{0}', {{token: 'none'}})", "Unauthorized: "),
        ("await (await fetch('{0}/v2', {{headers: {{'x-mine': '1'}}}})).json()", "origin '{1}' is not allowed (http.origins)"),
        (
            "await (await fetch('{0}/v1/chat/completions', {{method: 'POST', headers: {{'x-stainless-lang': 'js',"
            "'content-type': 'application/json', authorization: 'Bearer x'}}, body: '{{}}'}})).json()",
            "origin '{1}' is not allowed (http.origins)",
        ),
    ],
)  # fmt: skip
async def test_whatever_is_wrong_a_page_of_another_origin_can_read_it(
    page: Page, site: tuple[str, Path], pair: Gateway, inference: Inference, start_gateway: Callable[..., Gateway],
    how: str, said: str,
) -> None:  # fmt: skip
    (site[1] / "index.html").write_text("<!doctype html><title>blank</title>")
    gateway = started(start_gateway, inference, origins=[site[0]]) if "none" in how else pair
    await page.goto(f"{site[0]}/index.html")
    found = await page.evaluate(
        f"""async () => {{
            const podpair = await import("{gateway.url}/podpair.js");
            try {{
                const {{ error }} = {how.format(gateway.url)};
                return error.message ?? error;
            }} catch (error) {{ return `${{error.name}}: ${{error.message}}`; }}
        }}"""
    )
    assert found.startswith(said.format(gateway.url, site[0])), found


async def test_the_second_look_says_the_pages_origin_where_its_browser_does_not(page: Page, pair: Gateway) -> None:
    await page.route("**/blank", lambda route: route.fulfill(body="<title>blank</title>", content_type="text/html"))
    await page.goto(f"{pair.url}/blank")
    asked = await page.evaluate(
        """async () => {
            const seen = [];
            const real = window.fetch;
            window.fetch = (url, options) => (seen.push(options.headers["podpair-origin"] ?? null), real(url, options));
            const podpair = await import("/podpair.js");
            await podpair.connect(location.origin, { token: "none" }).catch(() => {});
            return seen;
        }"""
    )
    assert asked == [pair.url]
