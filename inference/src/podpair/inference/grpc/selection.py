"""Selects one of the servers: `http2_server`, of our own; `core_server`, on grpcio's core; or `aio_server`, on grpc.aio.

The second uses a module of grpcio that isn't public. A grpcio that it was tested with is trusted if the names exist; any other
has to pass a trial in a process of its own first, where it can't hang or crash this one. Only these two import grpcio.
"""

import asyncio
import importlib
import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Literal

from podpair.inference.grpc.call import RpcServer
from podpair.inference.grpc.calls import Calls

log = logging.getLogger(__name__)

# Minor releases of grpcio whose core the tests run on.
TRIED = ("1.85",)
_TRIAL_SECONDS = 20.0


async def make_server(kind: Literal["http2", "core", "aio"], options: Mapping[str, int], calls: Calls) -> RpcServer:
    """Return a server of that kind; grpc.aio's, with a warning, if the core is asked for and isn't what podpair needs.

    options: the core's channel arguments. calls: the `Calls` of its services.
    """
    if kind == "http2":
        own: RpcServer = importlib.import_module("podpair.inference.grpc.http2_server").Http2Server(options, calls)
        return own
    if kind == "core":
        reason = await asyncio.to_thread(unusable)
        if reason is None:
            server: RpcServer = importlib.import_module("podpair.inference.grpc.core_server").CoreServer(options)
            return server
        log.warning(
            "gRPC is served by grpc.aio, with more CPU a call: the core of this grpcio isn't one that podpair knows; "
            "install grpcio %s, or set grpc.server: aio",
            " or ".join(f"{minor}.*" for minor in TRIED),
            extra={"grpcio": importlib.import_module("grpc").__version__, "why": reason},
        )
    module = await asyncio.to_thread(importlib.import_module, "podpair.inference.grpc.aio_server")
    fallback: RpcServer = module.AioServer(options)
    return fallback


def unusable() -> str | None:
    """Return why grpcio's core can't be used; None if it can. Blocks for up to seconds: call it in a thread."""
    try:
        missing = importlib.import_module("podpair.inference.grpc.core_server").missing()
    except (ImportError, AttributeError) as error:
        return str(error)
    if missing:
        return f"grpc._cython.cygrpc has no {', '.join(missing)}"
    version: str = importlib.import_module("grpc").__version__
    if version.startswith(tuple(f"{minor}." for minor in TRIED)):
        return None
    command = [sys.executable, "-m", "podpair.inference.grpc.trial"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TRIAL_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the trial of grpcio {version} failed: {error}"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return f"the trial of grpcio {version} failed: {said[0]}"
