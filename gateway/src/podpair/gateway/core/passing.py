"""What of a request goes on to the model's server with it, and what of the answer comes back.

Invariant: no credential of a client reaches the model's server (its token, its resume token, its cookies), and nothing of that
server's connection reaches a client: headers go by name, and the gateway's own parameters are taken out of the query.
"""

import math
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_plus

from podpair.gateway.core.attempts import retry_after

# Without Content-Encoding: the body is decoded when it is passed on.
TO_MODEL = (
    "Content-Type", "Accept-Encoding", "Inference-Header-Content-Length", "podpair-deadline", "podpair-key",
    "traceparent", "tracestate",
)  # fmt: skip
_TO_CLIENT = ("Content-Type", "Content-Encoding", "Inference-Header-Content-Length")
_OURS = frozenset({"token", "resume", "position"})
_TARGET = re.compile(r"/[\x21-\x7e]*")


def target_of(path: str, query: str) -> str | None:
    """Path and query as they go over the wire, of a request's, both still encoded; None: it can't be passed on."""
    kept = "&".join(
        part
        for part in query.split("&")
        if unquote_plus(part.partition("=")[0], errors="replace").strip().lower() not in _OURS
    )
    target = f"{path}?{kept}" if kept else path
    return target if _TARGET.fullmatch(target) else None


def to_client(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of the model's answer that its client gets. `headers`: looked up whatever the case."""
    passed = {name: value for name in _TO_CLIENT if (value := headers.get(name)) is not None and value.isascii()}
    if (wait := headers.get("Retry-After")) is not None:
        seconds = retry_after(wait)
        passed["Retry-After"] = "1" if seconds is None else str(math.ceil(seconds))
    if _is_number(spent := headers.get("podpair-inference-ms")):
        passed["podpair-inference-ms"] = str(spent)
    return passed


def _is_number(text: str | None) -> bool:
    return text is not None and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) is not None


def named(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers that came as bytes."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
