"""Python environments of their own for what can't live beside podpair: as a lock file pins them, made on first use, kept."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cache import cache, exclusive
from harness.processes import BIN, ROOT

MINUTES = 60.0


def python(lock: Path) -> Path:
    """The interpreter of a lock file's environment, below PODPAIR_TEST_CACHE; skips, or fails, where it can't be made."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache() / "clients" / f"{lock.stem}-{digest}"
    interpreter = folder / "bin/python"
    if (folder / "complete").exists():
        return interpreter
    with exclusive(folder):
        if not (folder / "complete").exists():
            _make(folder, lock)
    return interpreter


def _make(folder: Path, lock: Path) -> None:
    uv = BIN / "uv" if (BIN / "uv").exists() else shutil.which("uv")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, folder],
        [
            uv,
            "pip",
            "sync",
            "--quiet",
            "--compile-bytecode",
            "--python",
            folder / "bin/python",
            "--require-hashes",
            lock,
        ],
    ):
        made = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=5 * MINUTES)
        if made.returncode:
            what = f"the environment of {lock.relative_to(ROOT)} can't be made: {made.stderr[-300:]}"
            (pytest.fail if os.environ.get("PODPAIR_TEST_REQUIRE") == "all" else pytest.skip)(what)
    (folder / "complete").touch()
