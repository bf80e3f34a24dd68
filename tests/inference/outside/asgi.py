"""An ASGI application, for uvicorn: it reads each request to its end and answers it, a HEAD without content."""

from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer one request; its header tells that it came as far as here."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = b'{"ready":true}' if scope["path"] == "/v2/health/ready" else b"{}"
    headers = [(b"content-length", b"%d" % len(body)), (b"understood", b"yes")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
