"""Programs that are built from Go modules on first use, and kept beside the Kubernetes programs."""

import os
import subprocess
import tempfile
from pathlib import Path

from harness.cache import cache, exclusive
from harness.machine import require


def installed(name: str, version: str, *arguments: str, cwd: Path | None = None) -> Path:
    """The path of a program that `go install` makes; `cwd`: of a module in this repository."""
    path = cache() / name / version / name
    if path.exists():
        return path
    (go,) = require("go")
    with exclusive(path.parent), tempfile.TemporaryDirectory(prefix=f"podpair-{name}-", dir=path.parent) as folder:
        if not path.exists():
            done = subprocess.run(
                ["nice", go, "install", "-trimpath", *arguments],
                cwd=cwd,
                env={**os.environ, "GOBIN": folder},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"go install {name}: {done.stderr[-2000:]}")
            (Path(folder) / name).rename(path)
    return path
