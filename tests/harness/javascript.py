"""Node.js packages as a lock file pins them: installed on first use below PODPAIR_TEST_CACHE, and kept."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import podpair.gateway
from harness.cache import cache, exclusive
from harness.machine import fetch, lacks, require

_OLDEST = 20  # Node.js; what the packages of the tests run on

LIBRARY = sorted((Path(podpair.gateway.__file__).parent / "console").glob("podpair*.js"))
"""podpair.js and its modules."""


def node() -> str:
    """The program; skips the test, or fails it, where it is missing or too old."""
    (program,) = require("node")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < _OLDEST:
        lacks(f"Node.js {_OLDEST} or newer")
    return program


def packages(lock: Path) -> Path:
    """The folder in which the packages of a package-lock.json are installed; no script of theirs has been run."""
    (npm,) = require("npm")
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache() / "clients" / f"{lock.parent.name}-{digest}"
    if (folder / "complete").exists():
        return folder
    with exclusive(folder):
        if not (folder / "complete").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(lock.parent / name, folder / name)
            fetch("npm's registry", npm, "ci", "--loglevel=error", "--ignore-scripts", cwd=folder)
            (folder / "complete").touch()
    return folder
