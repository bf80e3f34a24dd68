"""kstatus, by which Helm's --wait and Flux judge resources: its own library, built from its Go module on first use."""

import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from harness.machine import require
from harness.processes import ROOT

_SOURCE = ROOT / "tests" / "cluster" / "kstatus"
_VERSION = "0.37.2"


@cache
def program() -> Path:
    """The path of the judge."""
    path = Path(os.environ.get("PODPAIR_TEST_CACHE", ROOT / ".cache")) / "kstatus" / _VERSION / "kstatus"
    if not path.exists():
        (go,) = require("go")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="podpair-kstatus-", dir=path.parent) as folder:
            made = Path(folder) / "kstatus"
            command = ["nice", go, "build", "-mod=readonly", "-trimpath", "-o", str(made), "."]
            done = subprocess.run(command, cwd=_SOURCE, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"go build kstatus: {done.stderr[-2000:]}")
            made.rename(path)
    return path


def judge(one: dict[str, Any]) -> str:
    """Current, InProgress, Failed, Terminating, NotFound or Unknown: what tools take an object for."""
    done = subprocess.run([program()], input=json.dumps(one), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
