"""`podpair-inference health live|ready`: for probes that run a command, since nothing outside the pod can reach the container.

Nothing is imported here but sockets: it takes as long as Python takes to start. It asks where the server of the same
environment listens, or at the address that is given.
"""

import os
import socket
import sys
from collections.abc import Sequence

USAGE = "usage: podpair-inference health [live|ready] [--url http://HOST:PORT|unix:PATH]\n"
_SECONDS = 5.0


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the answer is 200, 1 if it isn't or there is none, 2 for arguments that aren't understood."""
    given = list(arguments)
    url = ""
    if "--url" in given[:-1]:
        at = given.index("--url")
        url = given[at + 1]
        del given[at : at + 2]
    what = given[0] if given else "ready"
    if len(given) > 1 or what not in ("live", "ready") or (url and not url.startswith(("http://", "unix:"))):
        sys.stderr.write(USAGE)
        return 2
    try:
        status, text = _ask(url or _address(), what)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{what}: no: {url or _address()}: {error}\n")
        return 1
    sys.stdout.write(f"{what}: {'yes' if status == 200 else f'no: {text}'}\n")
    return 0 if status == 200 else 1


def _address() -> str:
    """Return where the server listens, by the environment."""
    settings = {
        name.upper(): value for name, value in os.environ.items() if name.upper().startswith("PODPAIR_SERVER__")
    }
    path = settings.get("PODPAIR_SERVER__SOCKET")
    if path:
        return f"unix:{path}"
    host = settings.get("PODPAIR_SERVER__HOST", "127.0.0.1")
    # A server that listens on all addresses is reached at localhost.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.get('PODPAIR_SERVER__PORT', '8081')}"


def _ask(url: str, what: str) -> tuple[int, str]:
    with _connected(url) as connection:
        connection.sendall(f"GET /v2/health/{what} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ValueError("what listens there doesn't speak HTTP")
    return int(words[1]), f"{words[1].decode()} {body.decode(errors='replace').strip()}"


def _connected(url: str) -> socket.socket:
    if url.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_SECONDS)
        connection.connect(url.removeprefix("unix:"))
        return connection
    host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), _SECONDS)
