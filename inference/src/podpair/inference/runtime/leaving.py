"""The end of a process whose threads don't end: those of a model's, which may wait for ever."""

import logging
import os
import sys
import threading
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)


def leave_after(seconds: float, status: Any = 0) -> None:
    """End this process if it still runs after so many seconds; what it has printed is written."""
    watchdog = threading.Timer(seconds, _leave, [status])
    watchdog.daemon = True
    # A process that has ended all but itself starts no threads any more, and needs none.
    with suppress(RuntimeError):
        watchdog.start()


def _leave(status: Any) -> None:
    """The interpreter waits for threads that aren't daemons: it has waited long enough."""
    names = [t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    log.warning("threads of models still run, and end with the process", extra={"threads": names})
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            file.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))
