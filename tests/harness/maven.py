"""Jars, as Maven resolves a pom's dependencies: copied into a folder below .cache on first use, and kept."""

import hashlib
from pathlib import Path

from harness.cache import exclusive
from harness.machine import fetch, require
from harness.processes import ROOT


def jars(pom: Path, name: str) -> Path:
    """The folder with the jars of a pom's dependencies; skips, or fails, where they can't be had."""
    folder = ROOT / ".cache" / name
    resolved = folder / f".resolved-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
    if resolved.exists():
        return folder
    (maven,) = require("mvn")
    with exclusive(folder):
        if not resolved.exists():
            for other in (*folder.glob("*.jar"), *folder.glob(".resolved-*")):  # of another version
                other.unlink()
            goal = "dependency:copy-dependencies"
            fetch("Maven's repository", maven, "-q", "-B", "-f", pom, goal, f"-DoutputDirectory={folder}", cwd=folder)
            resolved.touch()
    return folder
