"""What benches measure, kept for `report.py`: `var/bench/SECTION.jsonl`, one object a line, printed as well.

A line has `section`; `row`, what names a table's row (its first columns); and `values`, the other columns: a number, a text,
or what `measuring.spread` says of many runs. `left_out` instead of `values` says why there are none. A section's file is begun
anew by each run.
"""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from harness.processes import ROOT

FOLDER = ROOT / "var" / "bench"


class Recording:
    """The lines of one section, from one run."""

    def __init__(self, section: str) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        self._section = section
        self._file: TextIO = (FOLDER / f"{section}.jsonl").open("w")
        self._write({"run": {"at": datetime.now(UTC).isoformat("T", "seconds"), **machine()}})

    def row(self, row: Mapping[str, str | float], values: Mapping[str, Any]) -> None:
        """What was measured. Columns are named with their units."""
        self._write({"row": row, "values": {name: _short(value) for name, value in values.items()}})

    def left_out(self, row: Mapping[str, str | float], reason: str) -> None:
        """What was to be measured, and why it wasn't."""
        self._write({"row": row, "left_out": reason})

    def close(self) -> None:
        """No more."""
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        text = json.dumps({"section": self._section, **line})
        print(text, flush=True)
        self._file.write(text + "\n")
        self._file.flush()


def machine() -> dict[str, Any]:
    """What a figure was measured on, and what else was at work when it began."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": cores, "machine": platform.machine(), "load": round(os.getloadavg()[0], 1)}


def _short(value: Any) -> Any:
    """Six digits are enough of anything."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return {name: _short(part) for name, part in value.items()} if isinstance(value, Mapping) else value
