"""The folder of somebody who uses podpair.js in Node.js, as docs/clients.md has it."""

import shutil
from pathlib import Path

from harness.javascript import LIBRARY, packages

PROGRAMS = Path(__file__).parent / "javascript"


def user_folder(folder: Path, *programs: str) -> Path:
    """Put the library, programs of `tests/client/javascript` and the package `ws` into a folder. Returns it."""
    for file in (*LIBRARY, *(PROGRAMS / program for program in programs), PROGRAMS / "package.json"):
        shutil.copy(file, folder / file.name)
    (folder / "node_modules").symlink_to(packages(PROGRAMS / "package-lock.json") / "node_modules")
    return folder
