"""kstatus, by which Helm's --wait and Flux judge resources: its own library, built from its Go module on first use."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from harness.go import installed
from harness.processes import ROOT

_SOURCE = ROOT / "tests" / "cluster" / "kstatus"
_VERSION = "0.37.2"


@cache
def program() -> Path:
    """The path of the judge."""
    return installed("kstatus", _VERSION, "-mod=readonly", ".", cwd=_SOURCE)


def judge(one: dict[str, Any]) -> str:
    """Current, InProgress, Failed, Terminating, NotFound or Unknown: what tools take an object for."""
    done = subprocess.run([program()], input=json.dumps(one), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
