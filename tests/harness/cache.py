"""What tests build once and keep: below `.cache`, or below the folder that PODPAIR_TEST_CACHE names."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.processes import ROOT


def cache() -> Path:
    """The folder."""
    return Path(os.environ.get("PODPAIR_TEST_CACHE", ROOT / ".cache"))


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make `folder`, whose parents need not exist, while no other run or worker of the tests makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
