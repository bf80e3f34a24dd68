"""Answers every request with a few bytes, on a general HTTP server of Python's, one process: uvicorn or granian."""

import argparse
from typing import Any

BODY = b'{"live":true}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Read the request to its end, and answer: the least that an ASGI application does."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def rsgi(_: Any, protocol: Any) -> None:
    """The same over granian's own interface."""
    await protocol()
    protocol.response_bytes(200, [(name.decode(), value.decode()) for name, value in HEADERS], BODY)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--server", choices=["h11", "httptools", "asgi", "rsgi"], required=True)
    options = parser.parse_args()
    if options.server in ("h11", "httptools"):
        import uvicorn

        uvicorn.run(app, port=options.port, http=options.server, loop="uvloop", access_log=False, log_level="error")
    else:
        from granian import Granian
        from granian.constants import HTTPModes, Interfaces, Loops

        interface = Interfaces.ASGINL if options.server == "asgi" else Interfaces.RSGI
        target = "server:app" if options.server == "asgi" else "server:rsgi"
        Granian(
            target, port=options.port, interface=interface, loop=Loops.uvloop, http=HTTPModes.http1, workers=1,
            log_enabled=False, websockets=False,
        ).serve()  # fmt: skip


if __name__ == "__main__":
    main()
