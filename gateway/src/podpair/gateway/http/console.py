"""The console at `/`, podpair.js, and development tokens for the console if the configuration allows them."""

import json
from importlib.metadata import version
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from podpair.gateway.auth.issue import development_token
from podpair.gateway.core.protocol import Code
from podpair.gateway.http.errors import refusal
from podpair.gateway.http.routes import Routes, path_of
from podpair.gateway.service import Service

_FILES = Path(__file__).parent.parent / "console"
_TOKEN_SECONDS = 3600
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_console(routes: Routes, service: Service) -> None:
    """Add the routes. podpair.js and its imports are served even if the console is off: pages may use them."""
    config = service.config.console
    names = [path.name for path in _FILES.iterdir() if path.suffix in (".js", ".css", ".html", ".svg")]
    policy = _policy(config.demo_url)

    async def file(request: web.Request) -> web.StreamResponse:
        name = path_of(request).removeprefix("/") or "index.html"
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(_FILES / name, headers=headers)

    for name in names if config.enabled else [name for name in names if name.startswith("podpair")]:
        routes.get(f"/{name}", file)
    if not config.enabled:
        return
    routes.get("/", file)
    routes.redirect_base()

    async def settings(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "model": config.model,
                "token_url": "console/token" if config.mint_tokens else None,
                "demo_url": config.demo_url,
                "kafka": service.config.kafka.bootstrap_servers if config.mint_tokens else None,
                "version": version("podpair-gateway"),
            }
        )

    routes.get("/console.json", settings)
    if config.mint_tokens:
        routes.post("/console/token", _token_handler(service))


def _token_handler(service: Service) -> Handler:
    async def mint(request: web.Request) -> web.Response:
        # DNS rebinding: a page whose host name resolves to this machine is same-origin for its browser.
        if (request.url.host or "") not in _LOOPBACK:
            return refusal(
                403, Code.FORBIDDEN, f"tokens are minted for {' and '.join(_LOOPBACK)} only, not {request.host}"
            )
        try:
            body = await request.json() if request.can_read_body else {}
        except json.JSONDecodeError:
            return refusal(400, Code.INVALID, "the body is not JSON")
        session = body.get("session") if isinstance(body, dict) else None
        auth = service.config.auth
        token = development_token(
            auth, subject="console", session=session if auth.session_claim else None, seconds=_TOKEN_SECONDS
        )
        return web.json_response({"token": token})

    return mint


def _policy(demo_url: str | None) -> str:
    connect = " ".join(["'self'", "ws:", "wss:", *([demo_url] if demo_url else [])])
    return f"default-src 'self'; connect-src {connect}; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
