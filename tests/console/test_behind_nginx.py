"""Pages that the gateway serves itself, in a real browser, with a real nginx before the gateway."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from harness.pair import Gateway, Inference, token
from harness.proxies import Proxy, blocks, with_location

# What comes of connecting with podpair.js.
CONNECT = """async (token) => {
    const { connect } = await import("/podpair.js");
    return connect("/v1/ws", { token }).then(() => "connected", (error) => `${error.name}: ${error.message}`);
}"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[str, Gateway], Proxy]]:
    with ExitStack() as stack:

        def start(config: str, gateway: Gateway) -> Proxy:
            proxy = Proxy("nginx", config, gateway, tmp_path / "nginx")
            stack.callback(proxy.stop)
            return proxy

        yield start


async def test_the_console_below_a_path(
    page: Page, nginx: Callable[[str, Gateway], Proxy], start_gateway: Callable[..., Gateway], inference: Inference
) -> None:
    gateway = start_gateway(
        {
            "kafka": {"embedded": True},
            "inference": {"url": inference.url},
            "console": {"enabled": True, "mint_tokens": True},
            "http": {"base_path": "/digits"},
        }
    )
    gateway.wait_ready()
    (config, *_), (below, *_) = blocks("nginx"), blocks("nginx-location")
    proxy = nginx(with_location(config, below), gateway).wait("/digits/readyz")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(f"{proxy.url}/digits/?session=someone")
    await expect(page.locator("#digit")).to_have_text("3")
    # While the wire is cut it asks over HTTP.
    await page.get_by_role("button", name="Cut the wire").click()
    await page.get_by_role("button", name="Draw a 5").click()
    await expect(page.locator("#tray .posted").first).to_be_visible()
    await page.get_by_role("button", name="Mend it now").click()
    await expect(page.locator("#digit")).to_have_text("5")
    assert [url for url in asked if not url.startswith(f"{proxy.url}/digits/")] == []


async def test_where_nginx_rewrites_host_the_page_is_told_so(
    page: Page, nginx: Callable[[str, Gateway], Proxy], start_gateway: Callable[..., Gateway], inference: Inference
) -> None:
    """Not that all is well: a browser's second look has no Origin."""
    gateway = start_gateway(
        {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "console": {"enabled": True}}
    )
    gateway.wait_ready()
    (config, *_) = blocks("nginx")
    proxy = nginx(config.replace("$http_host", "$host"), gateway).wait()
    await page.goto(f"{proxy.url}/")
    said = await page.evaluate(CONNECT, token())
    assert said.startswith(f"Forbidden: origin '{proxy.url}' is not allowed (http.origins)"), said
    assert "was reached: '127.0.0.1'" in said
    assert "have it pass Host on with its port" in said


async def test_where_nginx_passes_no_upgrades_on_the_page_is_asked_about_proxies(
    page: Page, nginx: Callable[[str, Gateway], Proxy], start_gateway: Callable[..., Gateway], inference: Inference
) -> None:
    gateway = start_gateway(
        {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "console": {"enabled": True}}
    )
    gateway.wait_ready()
    (config, *_) = blocks("nginx")
    without = config.replace("        proxy_set_header Upgrade $http_upgrade;\n", "")
    proxy = nginx(
        without.replace("proxy_set_header Connection $connection_upgrade", 'proxy_set_header Connection ""'), gateway
    ).wait()
    await page.goto(f"{proxy.url}/")
    said = await page.evaluate(CONNECT, token())
    assert (
        said
        == "Unreachable: the upgrade failed, though the gateway accepts it: does a proxy before it pass upgrades on?"
    )
