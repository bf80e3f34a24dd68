"""What a worker process is started with: a JSON object as its only argument."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Options:
    """File descriptors of its connections and of the file for tracebacks of crashes; and the server."""

    control: int
    calls: tuple[int, ...]
    # For its own calls to other models.
    models: int
    tracebacks: int
    # The server's process id.
    server: int
    # Level and format of the log, if the server has set it up.
    log: tuple[str, Literal["json", "text"]] | None = None
